// zctl events: what happened to the steps, and the messages that nobody could act on.

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/zfleet/zfleet/cmd/zctl/progress"
	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/protocol"
)

func (p *program) eventsCommand() *cobra.Command {
	var connection connectionFlags
	var output outputFormat
	var query fleet.EventQuery
	var plan string
	var since time.Duration
	var withProgress, deadLetters bool
	command := &cobra.Command{
		Use:     "events [-f]",
		GroupID: groupLook,
		Short:   "Show what happened to the steps, or what nobody could act on",
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if deadLetters && (query.Follow || plan != "" || withProgress) {
				return protocol.Usagef("--dead-letters goes with --since and -o alone")
			}
			query.Plan = protocol.PlanID(plan)
			if since > 0 {
				query.Since = time.Now().Add(-since)
			}
			ctx, s, err := p.open(command.Context(), "events", connection)
			if err != nil {
				return err
			}
			defer s.close()
			if deadLetters {
				return p.listDeadLetters(ctx, s, fleet.DeadLetterQuery{Since: query.Since}, output)
			}
			return p.showEvents(ctx, s, query, withProgress, output)
		},
	}
	flags := command.Flags()
	flags.BoolVarP(&query.Follow, "follow", "f", false, "go on with events as they happen, until interrupted")
	flags.StringVar(&plan, "plan", "", "only events of this plan")
	flags.DurationVar(&since, "since", 0, "only what is younger than this (0: all that is kept, seven days)")
	flags.BoolVar(&withProgress, "progress", false, "show progress events too")
	flags.BoolVar(&deadLetters, "dead-letters", false, "show the messages that nobody could act on instead")
	connection.add(command)
	output.add(command)
	return command
}

// showEvents writes each event as it comes: a line, a JSON line, or a YAML document.
func (p *program) showEvents(ctx context.Context, s *session, query fleet.EventQuery, withProgress bool, output outputFormat) error {
	for record, err := range s.Events(ctx, query) {
		if err != nil {
			return err
		}
		if !withProgress && record.Event != nil && record.Event.Kind == protocol.EventProgress {
			continue
		}
		if err := p.showEvent(record, output); err != nil {
			return fmt.Errorf("print events: %w", err)
		}
	}
	return nil
}

func (p *program) showEvent(record fleet.EventRecord, output outputFormat) error {
	var err error
	switch output {
	case outputJSON:
		err = json.NewEncoder(p.out).Encode(record)
	case outputYAML:
		err = writeYAMLDocument(p.out, record)
	case outputTable:
		_, err = fmt.Fprintln(p.out, p.eventLine(record))
	}
	return err
}

func (p *program) eventLine(record fleet.EventRecord) string {
	if record.Event == nil {
		return fmt.Sprintf("%s  %s  unreadable: %s", p.when(record.Stored), record.Subject, record.Problem)
	}
	event := record.Event
	parts := []string{p.when(event.At), event.Ref.String(), string(event.Kind)}
	if event.Role != "" {
		parts = append(parts, string(event.Role))
	}
	parts = append(parts, "on "+string(event.Host))
	if event.Filesystem != "" {
		parts = append(parts, fmt.Sprintf("%s → %s", event.Filesystem, event.Target))
	}
	if event.To != nil {
		parts = append(parts, event.To.Rel())
	}
	if event.Progress != nil {
		parts = append(parts, progress.Bytes(event.Progress.Bytes)+" of "+estimate(event.Progress.Expected)+
			progress.Pace(float64(event.Progress.Rate), event.Progress.Remaining))
	}
	if event.Path != nil {
		parts = append(parts, event.Path.String())
	}
	if event.Delivery > 1 {
		parts = append(parts, fmt.Sprintf("delivered %d times", event.Delivery))
	}
	if event.Note != "" {
		parts = append(parts, event.Note)
	}
	if event.Failure != nil {
		parts = append(parts, fmt.Sprintf("%s: %s", event.Failure.Kind, event.Failure.Message))
	}
	return strings.Join(parts, "  ")
}
