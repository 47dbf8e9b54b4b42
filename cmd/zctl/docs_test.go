package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/cmd/zctl/hostfile"
	"github.com/zfleet/zfleet/protocol"
)

func readDocs(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", name))
	require.NoError(t, err)
	return string(text)
}

// TestEveryCommandAndFlagIsDocumented looks for each command's heading in docs/zctl.md, and for each of its flags in its
// section or among the shared ones; and the other way round, for flags in a section that the command does not have.
func TestEveryCommandAndFlagIsDocumented(t *testing.T) {
	t.Parallel()
	text := readDocs(t, "zctl.md")
	sections := map[string]string{}
	for _, part := range strings.Split(text, "\n## ")[1:] {
		title, body, _ := strings.Cut(part, "\n")
		sections[title] = body
	}
	shared := sections["Flags that many commands share"]
	require.NotEmpty(t, shared)
	documented := regexp.MustCompile("(?m)^\\| [^|]*?`(--[a-z-]+)")

	b := newTestbed(t)
	root := b.program("", &safeBuffer{}, &safeBuffer{}).rootCommand()
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	visit(root, func(command *cobra.Command) {
		path := command.CommandPath()
		if command == root || strings.HasPrefix(path, "zctl completion ") {
			return
		}
		section, found := sections[path]
		require.True(t, found, "docs/zctl.md has no heading %q", "## "+path)
		command.Flags().VisitAll(func(flag *pflag.Flag) {
			if flag.Name != "help" && path != "zctl completion" {
				require.Regexp(t, "`[^`]*--"+flag.Name+"\\b", section+shared, "docs/zctl.md does not describe --%s of %s", flag.Name, path)
			}
		})
		for _, match := range documented.FindAllStringSubmatch(section, -1) {
			require.NotNil(t, command.Flags().Lookup(strings.TrimPrefix(match[1], "--")), "docs/zctl.md gives %s a flag %s", path, match[1])
		}
	})
	for _, match := range documented.FindAllStringSubmatch(shared, -1) {
		known := false
		visit(root, func(command *cobra.Command) {
			known = known || command.Flags().Lookup(strings.TrimPrefix(match[1], "--")) != nil
		})
		require.True(t, known, "docs/zctl.md describes %s, which no command has", match[1])
	}
}

func visit(command *cobra.Command, see func(*cobra.Command)) {
	see(command)
	for _, sub := range command.Commands() {
		visit(sub, see)
	}
}

var yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")

// TestDocumentedFilesAreValid reads every example of docs/configuration.md as zctl would.
func TestDocumentedFilesAreValid(t *testing.T) {
	t.Parallel()
	jobs, hosts := 0, 0
	for _, match := range yamlBlock.FindAllStringSubmatch(readDocs(t, "configuration.md"), -1) {
		if strings.HasPrefix(match[1], "fleet:") {
			continue // itest/docs reads it
		}
		if strings.HasPrefix(match[1], "job:") {
			jobs++
			_, err := protocol.ParseJob([]byte(match[1]))
			require.NoError(t, err, "%s", match[1])
			continue
		}
		hosts++
		file, err := hostfile.Parse("docs", []byte(match[1]))
		require.NoError(t, err, "%s", match[1])
		require.NoError(t, file.Validate(), "%s", match[1])
	}
	require.GreaterOrEqual(t, jobs, 4)
	require.GreaterOrEqual(t, hosts, 2)
}

// TestTheSpelledOutDefaultsAreTheDefaults keeps the long example of a job true.
func TestTheSpelledOutDefaultsAreTheDefaults(t *testing.T) {
	t.Parallel()
	for _, match := range yamlBlock.FindAllStringSubmatch(readDocs(t, "configuration.md"), -1) {
		if !strings.HasPrefix(match[1], "job: prod-dr") {
			continue
		}
		job, err := protocol.ParseJob([]byte(match[1]))
		require.NoError(t, err)
		want := protocol.DefaultJob()
		want.Name, want.Source, want.Targets, want.Replication.Initial = job.Name, job.Source, job.Targets, protocol.InitialAll
		none := protocol.PropertyChanges{Override: map[string]string{}, Inherit: []string{}}
		want.Recv.Properties = protocol.RecvProperties{
			Override: none.Override, Inherit: none.Inherit, Filesystem: none, Volume: none,
		}
		require.Equal(t, want, job)
		return
	}
	t.Fatal("the example is gone")
}

// TestEveryFieldOfAHostFileIsDocumented looks for each field of a host file in docs/configuration.md.
func TestEveryFieldOfAHostFileIsDocumented(t *testing.T) {
	t.Parallel()
	text := readDocs(t, "configuration.md")
	for _, field := range []string{
		"host", "nats.url", "nats.context", "nats.creds", "nats.nkey", "nats.ca", "nats.cert", "nats.key", "nats.domain", "nats.embedded.store_dir",
		"nats.embedded.listen", "worker.slots.send", "worker.slots.recv", "worker.data.listen", "worker.data.advertise", "worker.data.tls",
		"worker.allow.send", "worker.allow.recv", "worker.bandwidth_limit.send", "worker.bandwidth_limit.recv",
		"worker.compression.threads", "worker.grace", "coordinator.enabled", "coordinator.replicas", "coordinator.streams.max_bytes",
		"coordinator.streams.storage", "telemetry.logs.level", "telemetry.logs.format",
	} {
		require.Contains(t, text, "`"+field+"`")
	}
}
