// Dead letters: the messages that nobody could act on. They can be looked at, published again once what was wrong is mended,
// and dropped.

package fleet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/zfleet/zfleet/protocol"
)

// DeadLetterQuery says which dead letters are wanted; the zero value wants all that are kept.
type DeadLetterQuery struct {
	// Reporter is the host that could not act on the message, or "coordinator"; empty is anybody.
	Reporter string
	// Since leaves out what was kept earlier, and Before what was kept then or later; zero leaves out nothing.
	Since, Before time.Time
}

// DeadLetterRecord is a dead letter as the stream keeps it.
type DeadLetterRecord struct {
	// Sequence is its place in the stream, and its name for an operator.
	Sequence uint64              `json:"sequence"`
	Stored   time.Time           `json:"stored"`
	Letter   protocol.DeadLetter `json:"letter"`
}

// DeadLetterDetail is a dead letter with what its payload says.
type DeadLetterDetail struct {
	DeadLetterRecord
	// Kind is what the message was meant to be, for people: "work item", "event", "request".
	Kind string `json:"kind"`
	// Message is the payload with the field names of the protocol, and without secrets; nil where it is no msgpack, and then
	// Raw is the payload as it came.
	Message any    `json:"message,omitempty"`
	Raw     []byte `json:"raw,omitempty"`
	// Job is the one that the message is about; empty where that is not known.
	Job string `json:"job,omitempty"`
	// Refusal is why the letter cannot be retried, and what to do instead; empty where it can.
	Refusal string `json:"refusal,omitempty"`
}

// reportingCoordinator is the reporter of what coordinators could not act on.
const reportingCoordinator = "coordinator"

// LetterOutcome is what became of a dead letter.
type LetterOutcome string

// The outcomes. The first three are what was asked for.
const (
	LetterRetried LetterOutcome = "retried" // its message is in its stream again, and the letter is gone
	LetterDropped LetterOutcome = "dropped"
	LetterGone    LetterOutcome = "gone"    // it was to be dropped, and is not there (any more)
	LetterRefused LetterOutcome = "refused" // it cannot be retried, and stays
	LetterFailed  LetterOutcome = "failed"
)

// Good tells whether the letter is out of the way.
func (o LetterOutcome) Good() bool {
	return o == LetterRetried || o == LetterDropped || o == LetterGone
}

// LetterResult is what became of one dead letter.
type LetterResult struct {
	Sequence uint64        `json:"sequence"`
	Subject  string        `json:"subject,omitempty"`
	Outcome  LetterOutcome `json:"outcome"`
	// Note says why it was refused, or what there is to know besides; for people.
	Note    string            `json:"note,omitempty"`
	Failure *protocol.Failure `json:"failure,omitempty"`
}

// DeadLetters are the letters that the query wants, oldest first. Their payloads are left out: they may hold a step's secret.
// Some may come beside an error.
func (c *Client) DeadLetters(ctx context.Context, query DeadLetterQuery) ([]DeadLetterRecord, error) {
	subject := protocol.DeadLetterSubjects
	if query.Reporter != "" {
		subject = protocol.DeadLetterSubject(query.Reporter)
	}
	found := []DeadLetterRecord{}
	for message, err := range c.messages(ctx, c.resources.DeadLetters, subject, query.Since, false) {
		if err != nil {
			return found, c.explain(err, "read dead letters")
		}
		if !query.Before.IsZero() && !message.stored.Before(query.Before) {
			break
		}
		record := readLetter(message.sequence, message.stored, message.Subject(), message.Headers(), message.Data())
		record.Letter.Payload = nil
		found = append(found, record)
	}
	return found, nil
}

// DeadLetter is one letter with what its payload says. The error is of kind Usage where there is no such letter.
func (c *Client) DeadLetter(ctx context.Context, sequence uint64) (DeadLetterDetail, error) {
	record, err := c.deadLetter(ctx, sequence)
	if err != nil {
		return DeadLetterDetail{}, err
	}
	contents := readContents(record.Letter)
	detail := DeadLetterDetail{
		DeadLetterRecord: record, Kind: contents.kind, Message: contents.message, Job: contents.about.Job,
	}
	if detail.Message == nil {
		detail.Raw = record.Letter.Payload
	}
	detail.Letter.Payload = nil
	detail.Refusal, err = c.refusal(ctx, record, contents)
	return detail, err
}

// RetryDeadLetter publishes the letter's message to its subject again, and removes the letter once the stream has the message.
// It is refused where that cannot work or would have no effect; the letter is then kept. A letter is published once, even if
// removing it fails and it is tried again within the hour in which the stream recognises duplicates.
func (c *Client) RetryDeadLetter(ctx context.Context, sequence uint64) LetterResult {
	result := LetterResult{Sequence: sequence}
	record, err := c.deadLetter(ctx, sequence)
	if err != nil {
		return result.failed(err)
	}
	letter := record.Letter
	result.Subject = letter.Subject
	result.Note, err = c.refusal(ctx, record, readContents(letter))
	if err != nil {
		return result.failed(err)
	}
	if result.Note != "" {
		result.Outcome = LetterRefused
		return result
	}
	message := nats.NewMsg(letter.Subject)
	message.Data = letter.Payload
	for name, values := range letter.Headers {
		// NATS's own headers were for the first time: its message id would make the stream drop the message as a duplicate.
		if !strings.HasPrefix(name, "Nats-") {
			message.Header[name] = values
		}
	}
	publishing, cancel := c.bounded(ctx)
	defer cancel()
	id := fmt.Sprintf("deadletter.%d.%d", sequence, record.Stored.UnixNano())
	if _, err := protocol.Publish(publishing, c.resources.JetStream, message, id); err != nil {
		return result.failed(c.explain(err, "retry dead letter %d", sequence))
	}
	result.Outcome = LetterRetried
	if _, err := c.removeLetter(ctx, sequence); err != nil {
		result.Note = fmt.Sprintf("the message was published, but the letter is still there; drop it with: zctl deadletters drop %d (%v)",
			sequence, err)
	}
	return result
}

// DropDeadLetter removes the letter for good.
func (c *Client) DropDeadLetter(ctx context.Context, sequence uint64) LetterResult {
	result := LetterResult{Sequence: sequence, Outcome: LetterDropped}
	removed, err := c.removeLetter(ctx, sequence)
	switch {
	case err != nil:
		return result.failed(c.explain(err, "drop dead letter %d", sequence))
	case !removed:
		result.Outcome = LetterGone
	}
	return result
}

func (r LetterResult) failed(err error) LetterResult {
	failure := protocol.AsFailure(err, protocol.Permanent)
	r.Outcome, r.Note, r.Failure = LetterFailed, "", failure
	return r
}

func (c *Client) deadLetter(ctx context.Context, sequence uint64) (DeadLetterRecord, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	message, err := c.resources.DeadLetters.GetMsg(ctx, sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return DeadLetterRecord{}, protocol.Usagef("there is no dead letter %d; see: zctl deadletters list", sequence)
	}
	if err != nil {
		return DeadLetterRecord{}, c.explain(err, "read dead letter %d", sequence)
	}
	header := protocol.FromDirectGet(message.Header)
	return readLetter(message.Sequence, message.Time.UTC(), message.Subject, header, message.Data), nil
}

// removeLetter removes the letter; false says that it was not there.
func (c *Client) removeLetter(ctx context.Context, sequence uint64) (bool, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	err := c.resources.DeadLetters.DeleteMsg(ctx, sequence)
	if err == nil {
		return true, nil
	}
	// The client tells no reason that a program could know.
	if _, looking := c.resources.DeadLetters.GetMsg(ctx, sequence); errors.Is(looking, jetstream.ErrMsgNotFound) {
		return false, nil
	}
	return false, fmt.Errorf("delete message %d of %s: %w", sequence, protocol.StreamDeadLetters, err)
}

func readLetter(sequence uint64, stored time.Time, subject string, header nats.Header, data []byte) DeadLetterRecord {
	record := DeadLetterRecord{Sequence: sequence, Stored: stored}
	if err := protocol.ReadMessage(header, data, &record.Letter); err != nil {
		record.Letter = protocol.DeadLetter{Subject: subject, Reason: "the dead letter itself cannot be read: " + err.Error(), Size: len(data)}
	} else if claimed := record.Letter.Reporter; subject != protocol.DeadLetterSubject(claimed) {
		// Who may publish at the subject is what NATS has checked.
		record.Letter = protocol.DeadLetter{
			Subject: subject, Reason: fmt.Sprintf("the dead letter says that it is from %q, and is not", claimed), Size: len(data),
		}
	}
	return record
}

// refusal is why the letter cannot be retried; empty where it can.
func (c *Client) refusal(ctx context.Context, record DeadLetterRecord, contents letterContents) (string, error) {
	letter := record.Letter
	drop := fmt.Sprintf("zctl deadletters drop %d", record.Sequence)
	passedOn := protocol.PassedOn(letter.Headers)
	switch {
	case !contents.streamed:
		return fmt.Sprintf("a %s is not kept in a stream, and nobody waits for it any more; drop it with: %s", contents.kind, drop), nil
	case passedOn != "":
		return fmt.Sprintf("the message was not sent by who may send it, but passed on from the stream %s; find out who did that, and"+
			" drop the letter with: %s", passedOn, drop), nil
	case letter.Reporter != reportingCoordinator && !strings.HasPrefix(letter.Subject, "zfleet.work."+letter.Reporter+"."):
		return fmt.Sprintf("only host %s says that there was such a message, and it is none that this host gets; drop the letter with: %s",
			letter.Reporter, drop), nil
	case letter.Size > len(letter.Payload):
		return fmt.Sprintf("only %d of the message's %d bytes were kept, and a part of it means nothing; run its job again"+
			" (zctl run JOB), and drop the letter with: %s", len(letter.Payload), letter.Size, drop), nil
	case contents.about.Ref.Plan == "":
		return "", nil // not one that this program can read; another may
	}
	ended, err := c.superseded(ctx, contents.about.Ref)
	if err != nil || ended == "" {
		return "", err
	}
	job := contents.about.Job
	if job == "" {
		job = "JOB"
	}
	return fmt.Sprintf("it would have no effect: %s; run the job again with: zctl run %s, and drop the letter with: %s", ended, job, drop), nil
}

// superseded says why nobody waits for that try any more; empty where somebody may.
func (c *Client) superseded(ctx context.Context, ref protocol.StepRef) (string, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	read := func(key string, value any) (found bool, err error) {
		data, _, err := c.get(ctx, protocol.BucketPlans, key)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			return false, nil
		}
		if err != nil {
			return false, c.explain(err, "look what became of plan %s", ref.Plan)
		}
		if err := protocol.DecodeValue(data, value); err != nil {
			return false, protocol.Failf(protocol.Permanent, "look what became of plan %s: %w", ref.Plan, err)
		}
		return true, nil
	}
	var plan protocol.Plan
	switch found, err := read(protocol.PlanKey(ref.Plan), &plan); {
	case err != nil:
		return "", err
	case !found:
		return fmt.Sprintf("plan %s is not kept any more", ref.Plan), nil
	case plan.State.Final():
		return fmt.Sprintf("plan %s has ended (%s)", ref.Plan, plan.State), nil
	}
	var task protocol.Task
	found, err := read(protocol.TaskKey(ref.Plan, ref.Task), &task)
	switch {
	case err != nil || !found:
		return "", err
	case task.State.Final():
		return fmt.Sprintf("%s of plan %s has ended (%s)", task.Filesystem, ref.Plan, task.State), nil
	case task.Attempt > ref.Attempt:
		return fmt.Sprintf("it is of try %d of %s, and try %d is under way", ref.Attempt, task.Filesystem, task.Attempt), nil
	}
	return "", nil
}

// letterContents is what a letter's payload says, as far as it can be read.
type letterContents struct {
	kind string
	// streamed says that messages of this kind are kept in a stream, which would take it again.
	streamed bool
	message  any
	// about is what work items and events begin with; zero where it cannot be read.
	about struct {
		Ref protocol.StepRef `msgpack:"ref"`
		Job string           `msgpack:"job"`
	}
}

func readContents(letter protocol.DeadLetter) letterContents {
	var contents letterContents
	payload := letter.Payload
	switch tokens := strings.Split(letter.Subject, "."); {
	case strings.HasPrefix(letter.Subject, "zfleet.work.") && len(tokens) == 4:
		contents.kind, contents.streamed = "work item", true
	case strings.HasPrefix(letter.Subject, "zfleet.event.") && len(tokens) == 6:
		contents.kind, contents.streamed = "event", true
	case strings.HasPrefix(letter.Subject, "zfleet.cancel."):
		contents.kind = "cancel notice"
	case strings.HasPrefix(letter.Subject, "zfleet.rpc."):
		contents.kind = "request"
	case strings.HasPrefix(letter.Subject, protocol.BucketPlans+" "):
		contents.kind = "plan request"
		payload = payload[min(1, len(payload)):] // values begin with their version
	default:
		contents.kind = "message"
	}
	if contents.streamed && (protocol.Decode(payload, &contents.about) != nil || contents.about.Ref.Plan.Validate() != nil) {
		contents.about.Ref, contents.about.Job = protocol.StepRef{}, ""
	}
	var message any
	if protocol.Decode(payload, &message) == nil {
		contents.message = withoutSecrets(message)
	}
	if _, isMap := message.(map[string]any); !isMap {
		contents.message = nil // every message is a map; bytes that are none happen to be msgpack
	}
	return contents
}

// blanked stands for a secret.
const blanked = "(blanked)"

// withoutSecrets blanks the one-time secrets, and the subjects that are not to be guessed.
func withoutSecrets(value any) any {
	switch value := value.(type) {
	case map[string]any:
		for name, field := range value {
			value[name] = withoutSecrets(field)
			if name == "secret" {
				value[name] = blanked
			}
		}
	case []any:
		for i, element := range value {
			value[i] = withoutSecrets(element)
		}
	case string:
		if strings.HasPrefix(value, "zfleet.stream.") {
			return blanked
		}
	}
	return value
}
