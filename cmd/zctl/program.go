// The program: what the subcommands share – the process's edges, the root command, and what an error means to the caller.

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
)

// The exit codes.
const (
	exitDone    = 0
	exitFailed  = 1
	exitUsage   = 2
	exitPartial = 3
)

// program is the process's edges, which tests replace.
type program struct {
	in       io.Reader
	out      io.Writer
	errOut   io.Writer
	getenv   func(string) string
	environ  []string
	hostname func() (string, error)
	// signals are those that ask the process to stop; release ends their coming.
	signals func() (signals <-chan os.Signal, release func())
	// interactive tells whether somebody can be asked something.
	interactive func() bool
	// runner makes what runs the zfs commands of a host.
	runner func(protocol.Host) zfs.Runner
	// location is the time zone of times in tables.
	location *time.Location
}

func newProgram() *program {
	return &program{
		in: os.Stdin, out: os.Stdout, errOut: os.Stderr, getenv: os.Getenv, environ: os.Environ(), hostname: os.Hostname,
		signals:     stopSignals,
		interactive: func() bool { return term.IsTerminal(int(os.Stdin.Fd())) },
		runner:      func(protocol.Host) zfs.Runner { return zfs.NewExecRunner() },
		location:    time.Local,
	}
}

// isTerminal tells whether w is a terminal that can redraw itself.
func (p *program) isTerminal(w io.Writer) bool {
	file, isFile := w.(*os.File)
	return isFile && term.IsTerminal(int(file.Fd())) && p.getenv("TERM") != "dumb"
}

// ask asks somebody, below what standard error has shown, and tells whether the answer is yes.
func (p *program) ask(ctx context.Context, question string) (bool, error) {
	if _, err := fmt.Fprintf(p.errOut, "\n%s [y/N] ", question); err != nil {
		return false, fmt.Errorf("ask: %w", err)
	}
	answer := make(chan string, 1)
	// A read from a terminal cannot be interrupted; when the operator gives up, the process ends with it.
	go func() {
		line, err := bufio.NewReader(p.in).ReadString('\n')
		if err != nil {
			line = ""
		}
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case line := <-answer:
		return line == "y" || line == "yes", nil
	case <-ctx.Done():
		return false, protocol.AsFailure(ctx.Err(), protocol.Cancelled)
	}
}

// outcome is an error that only sets the exit code: what there is to say has been said.
type outcome struct{ code int }

func (o *outcome) Error() string { return fmt.Sprintf("exit code %d", o.code) }

// execute runs the command line and gives the exit code. Errors go to standard error.
func (p *program) execute(ctx context.Context, args []string) int {
	root := p.rootCommand()
	root.SetArgs(append([]string{}, args...)) // cobra takes nil for the process's own arguments
	parsed := false
	root.PersistentPreRun = func(*cobra.Command, []string) { parsed = true }
	command, err := root.ExecuteContextC(ctx)
	var coded *outcome
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &coded):
		return coded.code
	}
	_, _ = fmt.Fprintf(p.errOut, "zctl: %v\n", err) // there is nobody left to tell
	if !parsed {
		_, _ = fmt.Fprintf(p.errOut, "See: %s --help\n", command.CommandPath())
	}
	if !parsed || protocol.KindOf(err, protocol.Permanent) == protocol.Usage {
		return exitUsage
	}
	return exitFailed
}

func (p *program) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "zctl",
		Short: "Replicate OpenZFS datasets across a fleet of hosts",
		Long: `zctl replicates OpenZFS datasets across a fleet of hosts. It is every role of the fleet
(server, coordinator, worker) and the operator's tool.

See it work with nothing installed:   zctl demo

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done in part.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	root.SetIn(p.in)
	root.SetOut(p.out)
	root.SetErr(p.errOut)
	root.AddGroup(
		&cobra.Group{ID: groupRoles, Title: "Roles of the fleet:"},
		&cobra.Group{ID: groupReplicate, Title: "Replicating:"},
		&cobra.Group{ID: groupLook, Title: "Looking:"},
	)
	root.AddCommand(
		p.demoCommand(), p.serverCommand(), p.coordinatorCommand(), p.workerCommand(),
		p.submitCommand(), p.runCommand(), p.cancelCommand(), p.planCommand(),
		p.jobsCommand(), p.plansCommand(), p.statusCommand(), p.hostsCommand(), p.cursorsCommand(), p.abstractionsCommand(),
		p.migrateCommand(), p.natsConfigCommand(), p.eventsCommand(), p.deadLettersCommand(), p.checkCommand(), p.versionCommand(),
	)
	return root
}

// The groups of commands in the help.
const (
	groupRoles     = "roles"
	groupReplicate = "replicate"
	groupLook      = "look"
)
