// Command zctl is zfleet: every role of the fleet, and the operator's tool. Each subcommand has a file of its own; program.go
// holds what they share, and docs/zctl.md describes them to operators.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal ends the context, and from then on signals do what they do by default: the second one exits at once.
	context.AfterFunc(ctx, stop)
	os.Exit(newProgram().execute(ctx, os.Args[1:]))
}
