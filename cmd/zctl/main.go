// Command zctl is zfleet: every role of the fleet, and the operator's tool. Each subcommand has a file of its own; program.go
// holds what they share, and docs/zctl.md describes them to operators.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(run(newProgram(), os.Args[1:])) }

// run runs a command line as the process does, and gives its exit code.
func run(p *program, args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal ends the context, and from then on signals do what they do by default: the second one exits at once. Daemons
	// give a meaning of their own to the second one (stopping.go).
	context.AfterFunc(ctx, stop)
	return p.execute(ctx, args)
}
