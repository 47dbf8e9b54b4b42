// zctl deadletters: the messages that nobody could act on – looking at them, publishing them again, and dropping them.

package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/zfleet/zfleet/cmd/zctl/progress"
	"github.com/zfleet/zfleet/cmd/zctl/table"
	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/protocol"
)

func (p *program) deadLettersCommand() *cobra.Command {
	command := &cobra.Command{
		Use:     "deadletters",
		GroupID: groupLook,
		Short:   "Look at the messages that nobody could act on; retry or drop them",
		Long: `A message that a worker or the coordinator cannot act on is kept as a dead letter, with the reason:
it is of another version of the protocol, it is garbled, or it was delivered many times and never
finished. Nothing waits for it. Dead letters are kept for 30 days.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	command.AddCommand(
		p.deadLettersListCommand(), p.deadLettersShowCommand(), p.deadLettersRetryCommand(), p.deadLettersDropCommand(),
	)
	return command
}

// letterFilter selects dead letters by what they are.
type letterFilter struct {
	reporter      string
	since, before time.Duration
}

func (f *letterFilter) add(command *cobra.Command) {
	flags := command.Flags()
	flags.StringVar(&f.reporter, "reporter", "", "only what this host could not act on, or the coordinator")
	flags.DurationVar(&f.since, "since", 0, "only what is younger than this")
	flags.DurationVar(&f.before, "before", 0, "only what is older than this")
}

func (f *letterFilter) query() (fleet.DeadLetterQuery, error) {
	if f.since < 0 || f.before < 0 {
		return fleet.DeadLetterQuery{}, protocol.Usagef("--since and --before: use a positive time, like 24h")
	}
	query := fleet.DeadLetterQuery{Reporter: f.reporter}
	if f.since > 0 {
		query.Since = time.Now().Add(-f.since)
	}
	if f.before > 0 {
		query.Before = time.Now().Add(-f.before)
	}
	return query, nil
}

func (f *letterFilter) empty() bool { return *f == letterFilter{} }

func (p *program) deadLettersListCommand() *cobra.Command {
	var connection connectionFlags
	var output outputFormat
	var filter letterFilter
	command := &cobra.Command{
		Use:   "list",
		Short: "List the dead letters, oldest first",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			query, err := filter.query()
			if err != nil {
				return err
			}
			ctx, s, err := p.open(command.Context(), "deadletters list", connection)
			if err != nil {
				return err
			}
			defer s.close()
			return p.listDeadLetters(ctx, s, query, output)
		},
	}
	filter.add(command)
	connection.add(command)
	output.add(command)
	return command
}

func (p *program) listDeadLetters(ctx context.Context, s *session, query fleet.DeadLetterQuery, output outputFormat) error {
	letters, err := s.DeadLetters(ctx, query)
	return printed(p.print(output, letters, func(w io.Writer) { p.writeLetters(w, letters) }), err)
}

func (p *program) writeLetters(w io.Writer, letters []fleet.DeadLetterRecord) {
	var rows [][]string
	for _, record := range letters {
		letter := record.Letter
		rows = append(rows, []string{
			strconv.FormatUint(record.Sequence, 10), p.when(cmp.Or(letter.At, record.Stored)), letter.Reporter, letter.Subject,
			strconv.FormatUint(letter.Deliveries, 10), progress.Bytes(uint64(max(letter.Size, 0))), letter.Reason,
		})
	}
	table.Write(w, []string{"LETTER", "WHEN", "REPORTED BY", "SUBJECT", "DELIVERIES", "SIZE", "REASON"}, rows)
}

func (p *program) deadLettersShowCommand() *cobra.Command {
	var connection connectionFlags
	var output outputFormat
	command := &cobra.Command{
		Use:   "show LETTER",
		Short: "Show a dead letter: headers, what its payload says, and what to do",
		Args:  cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			numbers, err := letterNumbers(args)
			if err != nil {
				return err
			}
			ctx, s, err := p.open(command.Context(), "deadletters show", connection)
			if err != nil {
				return err
			}
			defer s.close()
			detail, err := s.DeadLetter(ctx, numbers[0])
			if detail.Sequence == 0 {
				return err
			}
			return printed(p.print(output, detail, func(w io.Writer) { p.writeLetter(w, detail) }), err)
		},
	}
	connection.add(command)
	output.add(command)
	return command
}

// writeLetter writes the letter for people. Writing to a buffer cannot fail, and the buffer is what it is given.
func (p *program) writeLetter(w io.Writer, detail fleet.DeadLetterDetail) {
	letter := detail.Letter
	_, _ = fmt.Fprintf(w, "dead letter %d: a %s to %s\n", detail.Sequence, detail.Kind, letter.Subject)
	_, _ = fmt.Fprintf(w, "kept by %s at %s, after %s\n", cmp.Or(letter.Reporter, "somebody"), p.when(cmp.Or(letter.At, detail.Stored)),
		times(letter.Deliveries))
	_, _ = fmt.Fprintf(w, "reason: %s\n", letter.Reason)
	if len(letter.Headers) > 0 {
		_, _ = fmt.Fprintln(w, "\nheaders:")
		for _, name := range slices.Sorted(maps.Keys(letter.Headers)) {
			_, _ = fmt.Fprintf(w, "  %s: %s\n", name, strings.Join(letter.Headers[name], ", "))
		}
	}
	switch {
	case detail.Message != nil:
		_, _ = fmt.Fprintf(w, "\npayload (%d bytes), without secrets:\n", letter.Size)
		text, err := toYAML(detail.Message)
		if err != nil {
			text = []byte(err.Error())
		}
		_, _ = fmt.Fprintf(w, "  %s\n", indented(string(text)))
	case len(detail.Raw) > 0:
		_, _ = fmt.Fprintf(w, "\npayload (%d bytes, of which %d are kept), which cannot be read:\n", letter.Size, len(detail.Raw))
		_, _ = fmt.Fprintf(w, "  %s\n", indented(hex.Dump(detail.Raw)))
	default:
		_, _ = fmt.Fprintln(w, "\nno payload")
	}
	_, _ = fmt.Fprintln(w)
	if detail.Refusal != "" {
		_, _ = fmt.Fprintf(w, "It cannot be retried: %s\n", detail.Refusal)
		return
	}
	_, _ = fmt.Fprintf(w, `When what the reason says is mended, publish it again with: zctl deadletters retry %d
If it is not needed any more, drop it with:                 zctl deadletters drop %d
`, detail.Sequence, detail.Sequence)
}

func times(deliveries uint64) string {
	if deliveries == 1 {
		return "1 delivery"
	}
	return fmt.Sprintf("%d deliveries", deliveries)
}

// letterChange retries or drops letters.
type letterChange struct {
	connection       connectionFlags
	output           outputFormat
	filter           letterFilter
	all, dryRun, yes bool
	// verb is retry or drop, and would what a dry run says of a letter.
	verb, would string
	act         func(ctx context.Context, s *session, sequence uint64) fleet.LetterResult
}

func (p *program) deadLettersRetryCommand() *cobra.Command {
	change := letterChange{verb: "retry", would: "would be retried"}
	change.act = func(ctx context.Context, s *session, sequence uint64) fleet.LetterResult {
		return s.RetryDeadLetter(ctx, sequence)
	}
	command := &cobra.Command{
		Use:   "retry (LETTER... | --all)",
		Short: "Publish dead letters again, once what was wrong is mended",
		Long: `Retry publishes a dead letter's message to its subject again, and removes the letter once the stream
has the message. It refuses what cannot be retried: messages of which only a part was kept, messages
that are not kept in streams, and those that would have no effect, because the plan that they belong
to has ended or goes on with a newer try. Running the job again does then what was left undone.`,
		Example: `  zctl deadletters retry 7
  zctl deadletters retry --all --reporter alpha`,
	}
	return p.letterCommand(command, &change)
}

func (p *program) deadLettersDropCommand() *cobra.Command {
	change := letterChange{verb: "drop", would: "would go"}
	change.act = func(ctx context.Context, s *session, sequence uint64) fleet.LetterResult {
		return s.DropDeadLetter(ctx, sequence)
	}
	command := &cobra.Command{
		Use:   "drop (LETTER... | --all | --before TIME)",
		Short: "Remove dead letters for good",
		Example: `  zctl deadletters drop 7 9
  zctl deadletters drop --before 168h`,
	}
	return p.letterCommand(command, &change)
}

func (p *program) letterCommand(command *cobra.Command, change *letterChange) *cobra.Command {
	command.RunE = func(command *cobra.Command, args []string) error {
		return p.changeLetters(command.Context(), *change, args)
	}
	flags := command.Flags()
	flags.BoolVar(&change.all, "all", false, "all dead letters, or all that the other flags leave")
	flags.BoolVar(&change.dryRun, "dry-run", false, "only show which it would be")
	flags.BoolVar(&change.yes, "yes", false, "do not ask")
	change.filter.add(command)
	change.connection.add(command)
	change.output.add(command)
	return command
}

func letterNumbers(args []string) ([]uint64, error) {
	numbers := make([]uint64, 0, len(args))
	for _, arg := range args {
		number, err := strconv.ParseUint(arg, 10, 64)
		if err != nil || number == 0 {
			return nil, protocol.Usagef("%q is no dead letter: name it by its number in: zctl deadletters list", arg)
		}
		numbers = append(numbers, number)
	}
	slices.Sort(numbers)
	return slices.Compact(numbers), nil
}

func (p *program) changeLetters(ctx context.Context, change letterChange, args []string) error {
	numbers, err := letterNumbers(args)
	if err != nil {
		return err
	}
	query, err := change.filter.query()
	if err != nil {
		return err
	}
	selecting := change.all || !change.filter.empty()
	switch {
	case selecting == (len(numbers) > 0):
		return protocol.Usagef("say which dead letters to %s: by their numbers in zctl deadletters list, or with --all, --reporter,"+
			" --since and --before", change.verb)
	case selecting && !change.dryRun && !change.yes && !p.interactive():
		return protocol.Usagef("nobody can be asked, since standard input is no terminal: look with --dry-run which letters it would be," +
			" and then say --yes")
	}
	ctx, s, err := p.open(ctx, "deadletters "+change.verb, change.connection)
	if err != nil {
		return err
	}
	defer s.close()
	if selecting || change.dryRun {
		letters, err := s.DeadLetters(ctx, query)
		if err != nil {
			return err
		}
		if !selecting {
			letters = slices.DeleteFunc(letters, func(record fleet.DeadLetterRecord) bool { return !slices.Contains(numbers, record.Sequence) })
		}
		if change.dryRun {
			return p.print(change.output, letters, func(w io.Writer) {
				p.writeLetters(w, letters)
				_, _ = fmt.Fprintf(w, "\n%s %s. Nothing was changed.\n", progress.Count(len(letters), "letter"), change.would)
			})
		}
		numbers = numbers[:0]
		for _, record := range letters {
			numbers = append(numbers, record.Sequence)
		}
		if len(letters) > 0 && !change.yes {
			p.writeLetters(p.errOut, letters)
			sure, err := p.ask(ctx, fmt.Sprintf("%s %s?", strings.ToUpper(change.verb[:1])+change.verb[1:], progress.Count(len(letters), "letter")))
			if err != nil {
				return err
			}
			if !sure {
				return protocol.Failf(protocol.Cancelled, "nothing was changed: it was not confirmed")
			}
		}
	}
	results := []fleet.LetterResult{}
	for _, number := range numbers {
		results = append(results, change.act(ctx, s, number))
	}
	return printed(p.print(change.output, results, func(w io.Writer) { writeLetterResults(w, results) }), lettersVerdict(results))
}

func writeLetterResults(w io.Writer, results []fleet.LetterResult) {
	if len(results) == 0 {
		_, _ = fmt.Fprintln(w, "There are no such dead letters.")
		return
	}
	for _, result := range results {
		text := fmt.Sprintf("letter %d: %s", result.Sequence, result.Outcome)
		if result.Outcome == fleet.LetterRetried {
			text += ", to " + result.Subject
		}
		if result.Note != "" {
			text += ": " + result.Note
		}
		if result.Failure != nil {
			text += ": " + result.Failure.Error()
		}
		_, _ = fmt.Fprintln(w, text)
	}
}

// lettersVerdict is what the results mean to the caller.
func lettersVerdict(results []fleet.LetterResult) error {
	good := 0
	for _, result := range results {
		if result.Outcome.Good() {
			good++
		}
	}
	switch {
	case good == len(results):
		return nil
	case good > 0:
		return &outcome{exitPartial}
	}
	return &outcome{exitFailed}
}
