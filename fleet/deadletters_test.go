package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/protocol"
)

const letterPlan protocol.PlanID = "20261123t010000-abcde"

// putLetter keeps a letter, and gives its number.
func (s *scripted) putLetter(letter protocol.DeadLetter) uint64 {
	s.t.Helper()
	require.NoError(s.t, protocol.PublishDeadLetter(context.Background(), s.resources.JetStream, letter))
	info, err := s.resources.DeadLetters.Info(context.Background())
	require.NoError(s.t, err)
	return info.State.LastSeq
}

// workLetter is the letter of a work item as a worker gets it, with all its headers.
func (s *scripted) workLetter(ref protocol.StepRef) protocol.DeadLetter {
	s.t.Helper()
	step := exampleTask(ref.Plan, ref.Task, "tank/data").Steps[0]
	item := protocol.WorkItem{
		Ref: ref, Role: protocol.RoleSend, Job: "prod", JobID: "prod.bravo", Source: "alpha", Target: "bravo", TargetRoot: "backup",
		Step: step,
		Offer: &protocol.Offer{
			Addresses: []string{"10.0.0.2:8410"}, Secret: []byte("sesame sesame sesame"), Subject: protocol.StreamSubject("bravo", "hidden"),
		},
	}
	message, err := protocol.NewMessage(context.Background(), protocol.WorkSubject("alpha", protocol.RoleSend), item)
	require.NoError(s.t, err)
	message.Header.Set(jetstream.MsgIDHeader, item.MessageID())
	return protocol.NewDeadLetter(message.Subject, message.Header, message.Data, errors.New("delivered 21 times"), "alpha", 21)
}

func (s *scripted) letters() []DeadLetterRecord {
	s.t.Helper()
	letters, err := s.DeadLetters(context.Background(), DeadLetterQuery{})
	require.NoError(s.t, err)
	return letters
}

func TestFindingDeadLetters(t *testing.T) {
	t.Parallel()
	s := newScripted(t)
	require.NotNil(t, s.letters(), "none is a list too")
	for _, reporter := range []string{"alpha", "bravo", "coordinator", "alpha"} {
		s.putLetter(protocol.DeadLetter{Subject: "zfleet.work.alpha.send", Reason: "garbled", Reporter: reporter, At: time.Now()})
	}
	for name, try := range map[string]struct {
		query DeadLetterQuery
		want  []uint64
	}{
		"all":           {DeadLetterQuery{}, []uint64{1, 2, 3, 4}},
		"of a host":     {DeadLetterQuery{Reporter: "alpha"}, []uint64{1, 4}},
		"of nobody":     {DeadLetterQuery{Reporter: "charlie"}, nil},
		"younger":       {DeadLetterQuery{Since: time.Now().Add(-time.Hour)}, []uint64{1, 2, 3, 4}},
		"too young":     {DeadLetterQuery{Since: time.Now().Add(time.Hour)}, nil},
		"older":         {DeadLetterQuery{Before: time.Now().Add(time.Hour)}, []uint64{1, 2, 3, 4}},
		"too old":       {DeadLetterQuery{Before: time.Now().Add(-time.Hour)}, nil},
		"old of a host": {DeadLetterQuery{Reporter: "bravo", Before: time.Now().Add(time.Hour)}, []uint64{2}},
	} {
		letters, err := s.DeadLetters(t.Context(), try.query)
		require.NoError(t, err, name)
		var found []uint64
		for _, letter := range letters {
			found = append(found, letter.Sequence)
		}
		require.Equal(t, try.want, found, name)
	}
}

func TestADeadLetterIsShownWithoutItsSecrets(t *testing.T) {
	t.Parallel()
	s := newScripted(t)
	sequence := s.putLetter(s.workLetter(protocol.StepRef{Plan: letterPlan, Attempt: 1}))
	detail, err := s.DeadLetter(t.Context(), sequence)
	require.NoError(t, err)
	require.Equal(t, "work item", detail.Kind)
	require.Equal(t, "prod", detail.Job)
	require.Empty(t, detail.Raw)
	require.Equal(t, uint64(21), detail.Letter.Deliveries)
	text, err := json.Marshal(detail)
	require.NoError(t, err)
	require.Contains(t, string(text), `"secret":"(blanked)"`)
	require.Contains(t, string(text), `"addresses":["10.0.0.2:8410"]`)
	require.NotContains(t, string(text), "hidden")
	require.NotContains(t, string(text), "c2VzYW1l", "the secret in base64")

	_, err = s.DeadLetter(t.Context(), 99)
	require.Equal(t, protocol.Usage, protocol.KindOf(err, protocol.Permanent))
	require.ErrorContains(t, err, "there is no dead letter 99")
}

func TestADeadLetterThatCannotBeReadIsShownAsItCame(t *testing.T) {
	t.Parallel()
	s := newScripted(t)
	for kind, letter := range map[string]protocol.DeadLetter{
		"work item":     {Subject: "zfleet.work.alpha.send", Payload: []byte("\xc1garbage"), Reporter: "alpha"},
		"event":         {Subject: "zfleet.event.alpha." + string(letterPlan) + ".1-0.done", Payload: []byte("7"), Reporter: "coordinator"},
		"request":       {Subject: "zfleet.rpc.alpha.inventory", Payload: []byte{0x81}},
		"cancel notice": {Subject: "zfleet.cancel.x", Payload: []byte("\xff")},
		"plan request":  {Subject: protocol.BucketPlans + " x.request", Payload: []byte{1, 0xc1}},
		"message":       {Subject: "elsewhere"},
	} {
		letter.Size = len(letter.Payload)
		detail, err := s.DeadLetter(t.Context(), s.putLetter(letter))
		require.NoError(t, err, kind)
		require.Equal(t, kind, detail.Kind)
		require.Nil(t, detail.Message, kind)
		require.Equal(t, letter.Payload, detail.Raw, kind)
		streamed := kind == "work item" || kind == "event"
		require.Equal(t, streamed, detail.Refusal == "", "%s: %s", kind, detail.Refusal)
	}
}

func TestRetryingADeadLetter(t *testing.T) {
	t.Parallel()
	s := newScripted(t)
	s.putPlan(protocol.Plan{ID: letterPlan, Job: "prod", State: protocol.PlanRunning})
	s.putTask(exampleTask(letterPlan, 1, "tank/data"))
	letter := s.workLetter(protocol.StepRef{Plan: letterPlan, Task: 1, Attempt: 1})
	sequence := s.putLetter(letter)

	result := s.RetryDeadLetter(t.Context(), sequence)
	require.Equal(t, LetterResult{Sequence: sequence, Subject: letter.Subject, Outcome: LetterRetried}, result)
	require.Empty(t, s.letters(), "the letter is gone")
	message, err := s.resources.Work.GetLastMsgForSubject(t.Context(), letter.Subject)
	require.NoError(t, err)
	require.Equal(t, letter.Payload, message.Data)
	require.Equal(t, letter.Headers[protocol.HeaderProtocol][0], message.Header.Get(protocol.HeaderProtocol))
	require.NotEqual(t, letter.Headers[jetstream.MsgIDHeader][0], message.Header.Get(jetstream.MsgIDHeader),
		"the stream would drop the message as a duplicate of the first one")

	result = s.RetryDeadLetter(t.Context(), sequence)
	require.Equal(t, LetterFailed, result.Outcome)
	require.ErrorContains(t, result.Failure, "there is no dead letter")
}

// Whatever cannot have an effect is not published, and the letter stays.
func TestRetryingIsRefused(t *testing.T) {
	t.Parallel()
	const ended, kept, done protocol.PlanID = "20261123t010000-ended", "20261123t010000-gone", "20261123t010000-done"
	s := newScripted(t)
	s.putPlan(protocol.Plan{ID: letterPlan, Job: "prod", State: protocol.PlanRunning})
	newer := exampleTask(letterPlan, 1, "tank/data")
	newer.Attempt = 3
	s.putTask(newer)
	s.putPlan(protocol.Plan{ID: ended, Job: "prod", State: protocol.PlanPartial})
	s.putPlan(protocol.Plan{ID: done, Job: "prod", State: protocol.PlanRunning})
	over := exampleTask(done, 0, "tank/data")
	over.State = protocol.TaskFailed
	s.putTask(over)
	cut := s.workLetter(protocol.StepRef{Plan: letterPlan, Attempt: 1})
	cut.Payload = cut.Payload[:10]
	forged, passedOn := s.workLetter(protocol.StepRef{Plan: letterPlan, Attempt: 1}), s.workLetter(protocol.StepRef{Plan: letterPlan, Attempt: 1})
	forged.Reporter = "charlie"
	passedOn.Headers["Nats-Stream"] = []string{protocol.StreamsStream}
	for want, letter := range map[string]protocol.DeadLetter{
		"only host charlie says that there was such a message":                                                     forged,
		"but passed on from the stream " + protocol.StreamsStream:                                                  passedOn,
		"plan " + string(ended) + " has ended (partial); run the job again with: zctl run prod":                    s.workLetter(protocol.StepRef{Plan: ended, Attempt: 1}),
		"plan " + string(kept) + " is not kept any more":                                                           s.workLetter(protocol.StepRef{Plan: kept, Attempt: 1}),
		"tank/data of plan " + string(done) + " has ended (failed)":                                                s.workLetter(protocol.StepRef{Plan: done, Attempt: 1}),
		"it is of try 1 of tank/data, and try 3 is under way":                                                      s.workLetter(protocol.StepRef{Plan: letterPlan, Task: 1, Attempt: 1}),
		"only 10 of the message's ":                                                                                cut,
		"a request is not kept in a stream":                                                                        {Subject: "zfleet.rpc.alpha.inventory"},
		"a message is not kept in a stream, and nobody waits for it any more; drop it with: zctl deadletters drop": {Subject: "$JS.API.STREAM.PURGE.ZFLEET_WORK"},
	} {
		sequence := s.putLetter(letter)
		result := s.RetryDeadLetter(t.Context(), sequence)
		require.Equal(t, LetterRefused, result.Outcome, "%s: %+v", want, result)
		require.Contains(t, result.Note, want)
		detail, err := s.DeadLetter(t.Context(), sequence)
		require.NoError(t, err)
		require.Equal(t, result.Note, detail.Refusal)
	}
	info, err := s.resources.Work.Info(t.Context())
	require.NoError(t, err)
	require.Zero(t, info.State.LastSeq, "nothing was published")
	require.Len(t, s.letters(), 9)
}

func TestDroppingADeadLetter(t *testing.T) {
	t.Parallel()
	s := newScripted(t)
	sequence := s.putLetter(protocol.DeadLetter{Subject: "zfleet.work.alpha.send", Reason: strings.Repeat("x", 100)})
	kept := s.putLetter(protocol.DeadLetter{Subject: "zfleet.work.alpha.send"})
	require.Equal(t, LetterResult{Sequence: sequence, Outcome: LetterDropped}, s.DropDeadLetter(t.Context(), sequence))
	require.Equal(t, LetterResult{Sequence: sequence, Outcome: LetterGone}, s.DropDeadLetter(t.Context(), sequence))
	require.Equal(t, LetterResult{Sequence: 99, Outcome: LetterGone}, s.DropDeadLetter(t.Context(), 99))
	require.Len(t, s.letters(), 1)
	require.Equal(t, kept, s.letters()[0].Sequence)
}
