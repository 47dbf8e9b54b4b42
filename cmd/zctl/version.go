// zctl version: which program this is.

package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/zfleet/zfleet/protocol"
)

// versionInfo is what the binary knows of itself.
type versionInfo struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Protocol int    `json:"protocol"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func programVersion() versionInfo {
	info := versionInfo{
		Version: "(devel)", Protocol: protocol.ProtocolVersion, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
	build, found := debug.ReadBuildInfo()
	if !found {
		return info
	}
	if build.Main.Version != "" {
		info.Version = build.Main.Version
	}
	for _, setting := range build.Settings {
		if setting.Key == "vcs.revision" {
			info.Revision = setting.Value
		}
	}
	return info
}

func (p *program) versionCommand() *cobra.Command {
	var output outputFormat
	command := &cobra.Command{
		Use:   "version",
		Short: "Show the version of zctl and of its protocol",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			info := programVersion()
			return p.print(output, info, func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "zctl %s, protocol %d, %s, %s\n", info.Version, info.Protocol, info.Go, info.Platform)
			})
		},
	}
	output.add(command)
	return command
}
