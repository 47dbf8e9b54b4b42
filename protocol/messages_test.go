package protocol_test

// What holds for every message: it survives the wire, and whatever bytes come instead of it do no harm.

import (
	"reflect"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/zfleet/zfleet/protocol"
)

func TestEveryMessageSurvivesTheWire(t *testing.T) {
	t.Parallel()
	t.Run("AbstractionsPage", survives[protocol.AbstractionsPage])
	t.Run("AbstractionsRequest", survives[protocol.AbstractionsRequest])
	t.Run("Call", survives[protocol.Call])
	t.Run("CallAnswer", survives[protocol.CallAnswer])
	t.Run("CancelNotice", survives[protocol.CancelNotice])
	t.Run("Confirmation", survives[protocol.Confirmation])
	t.Run("Cursor", survives[protocol.Cursor])
	t.Run("DeadLetter", survives[protocol.DeadLetter])
	t.Run("EstimateReply", survives[protocol.EstimateReply])
	t.Run("EstimateRequest", survives[protocol.EstimateRequest])
	t.Run("Event", survives[protocol.Event])
	t.Run("Failure", survives[protocol.Failure])
	t.Run("InventoryPage", survives[protocol.InventoryPage])
	t.Run("InventoryRequest", survives[protocol.InventoryRequest])
	t.Run("Job", survives[protocol.Job])
	t.Run("Lease", survives[protocol.Lease])
	t.Run("MigrateRequest", survives[protocol.MigrateRequest])
	t.Run("Plan", survives[protocol.Plan])
	t.Run("PlanRequest", survives[protocol.PlanRequest])
	t.Run("Presence", survives[protocol.Presence])
	t.Run("ReleasePage", survives[protocol.ReleasePage])
	t.Run("ReleaseRequest", survives[protocol.ReleaseRequest])
	t.Run("SegmentsStored", survives[protocol.SegmentsStored])
	t.Run("SegmentsTaken", survives[protocol.SegmentsTaken])
	t.Run("StreamHeader", survives[protocol.StreamHeader])
	t.Run("Task", survives[protocol.Task])
	t.Run("WorkItem", survives[protocol.WorkItem])
}

// survives checks that a message comes back as it was, and that Decode refuses it only where Validate does.
func survives[T any](t *testing.T) {
	t.Helper()
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		sent := arbitrary[T](t)
		data, err := protocol.Encode(sent)
		require.NoError(t, err)
		var received T
		err = protocol.Decode(data, &received)
		var invalid error
		if v, ok := any(sent).(interface{ Validate() error }); ok {
			invalid = v.Validate()
		}
		if invalid == nil {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, invalid.Error())
		}
		inUTC(reflect.ValueOf(&received).Elem())
		require.Equal(t, sent, received)
	})
}

func FuzzDecodeAbstractionsPage(f *testing.F)    { fuzzDecode[protocol.AbstractionsPage](f) }
func FuzzDecodeAbstractionsRequest(f *testing.F) { fuzzDecode[protocol.AbstractionsRequest](f) }
func FuzzDecodeCall(f *testing.F)                { fuzzDecode[protocol.Call](f) }
func FuzzDecodeCallAnswer(f *testing.F)          { fuzzDecode[protocol.CallAnswer](f) }
func FuzzDecodeCancelNotice(f *testing.F)        { fuzzDecode[protocol.CancelNotice](f) }
func FuzzDecodeConfirmation(f *testing.F)        { fuzzDecode[protocol.Confirmation](f) }
func FuzzDecodeCursor(f *testing.F)              { fuzzDecode[protocol.Cursor](f) }
func FuzzDecodeDeadLetter(f *testing.F)          { fuzzDecode[protocol.DeadLetter](f) }
func FuzzDecodeEstimateReply(f *testing.F)       { fuzzDecode[protocol.EstimateReply](f) }
func FuzzDecodeEstimateRequest(f *testing.F)     { fuzzDecode[protocol.EstimateRequest](f) }
func FuzzDecodeEvent(f *testing.F)               { fuzzDecode[protocol.Event](f) }
func FuzzDecodeFailure(f *testing.F)             { fuzzDecode[protocol.Failure](f) }
func FuzzDecodeInventoryPage(f *testing.F)       { fuzzDecode[protocol.InventoryPage](f) }
func FuzzDecodeInventoryRequest(f *testing.F)    { fuzzDecode[protocol.InventoryRequest](f) }
func FuzzDecodeJob(f *testing.F)                 { fuzzDecode[protocol.Job](f) }
func FuzzDecodeLease(f *testing.F)               { fuzzDecode[protocol.Lease](f) }
func FuzzDecodeMigrateRequest(f *testing.F)      { fuzzDecode[protocol.MigrateRequest](f) }
func FuzzDecodePlan(f *testing.F)                { fuzzDecode[protocol.Plan](f) }
func FuzzDecodePlanRequest(f *testing.F)         { fuzzDecode[protocol.PlanRequest](f) }
func FuzzDecodePresence(f *testing.F)            { fuzzDecode[protocol.Presence](f) }
func FuzzDecodeReleasePage(f *testing.F)         { fuzzDecode[protocol.ReleasePage](f) }
func FuzzDecodeReleaseRequest(f *testing.F)      { fuzzDecode[protocol.ReleaseRequest](f) }
func FuzzDecodeSegmentsStored(f *testing.F)      { fuzzDecode[protocol.SegmentsStored](f) }
func FuzzDecodeSegmentsTaken(f *testing.F)       { fuzzDecode[protocol.SegmentsTaken](f) }
func FuzzDecodeStreamHeader(f *testing.F)        { fuzzDecode[protocol.StreamHeader](f) }
func FuzzDecodeTask(f *testing.F)                { fuzzDecode[protocol.Task](f) }
func FuzzDecodeWorkItem(f *testing.F)            { fuzzDecode[protocol.WorkItem](f) }

// decodeBudget is what decoding one message may allocate, whatever its bytes.
const decodeBudget = 64 << 20

// fuzzDecode checks that decoding neither panics nor allocates without bound, and that what is decoded can be encoded and
// decoded again without a change. Its seeds are sound messages and the small bombs of the codec's own tests.
func fuzzDecode[T any](f *testing.F) {
	f.Helper()
	for seed := range 4 {
		data, err := protocol.Encode(rapid.Custom(arbitrary[T]).Example(seed))
		require.NoError(f, err)
		f.Add(data)
		f.Add(data[:len(data)/2])
		f.Add(append(data, 0))
	}
	for _, sample := range soundMessages() {
		if message, ok := sample.(T); ok {
			data, err := protocol.Encode(message)
			require.NoError(f, err)
			f.Add(data)
		}
	}
	for _, bomb := range bombs() {
		if len(bomb.data) <= 4<<10 { // large inputs make fuzzing slow, and the codec's own tests have them
			f.Add(bomb.data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var first, second T
		before := allocated()
		err := protocol.Decode(data, &first)
		require.LessOrEqual(t, allocated()-before, uint64(decodeBudget), "bytes allocated to decode %d bytes", len(data))
		if err != nil {
			var decode *protocol.DecodeError
			require.ErrorAs(t, err, &decode)
			return
		}
		again, err := protocol.Encode(first)
		if err != nil {
			return // what is left out in data is written in full, and may then be too large
		}
		require.NoError(t, protocol.Decode(again, &second))
		once, err := protocol.Encode(second)
		require.NoError(t, err)
		require.Equal(t, again, once)
	})
}

// allocated is how many bytes the process has allocated on its heap so far.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// soundMessages are messages that are valid.
func soundMessages() []any {
	at := time.Date(2026, 11, 23, 1, 53, 22, 0, time.UTC)
	from := protocol.Version{Type: protocol.Bookmark, Name: "zrepl_CURSOR_G_00000000000000aa_J_prod.bravo", GUID: 0xaa, CreateTXG: 7, Creation: at}
	to := protocol.Version{Type: protocol.Snapshot, Name: "auto_2", GUID: 0xbb, CreateTXG: 9, Creation: at, UserRefs: 1}
	ref := protocol.StepRef{Plan: protocol.NewPlanID(at, "x7k2q"), Task: 3, Step: 1, Attempt: 2}
	job := soundJob()
	step := protocol.Step{
		Filesystem: "tank/data/a b", TargetFilesystem: "backup/alpha/tank/data/a b", From: &from, To: to, Estimate: 1 << 30,
	}
	item := protocol.WorkItem{
		Ref: ref, Role: protocol.RoleRecv, Job: job.Name, JobID: "prod.bravo", Source: "alpha", Target: "bravo",
		TargetRoot: "backup/alpha", Step: step, Transport: protocol.TransportTCP, Protection: job.Replication.Protection,
		Send: job.Send, Recv: job.Recv, Deadlines: job.Replication.Deadlines,
	}
	send := item
	send.Role = protocol.RoleSend
	send.Offer = &protocol.Offer{
		Addresses: []string{"bravo.example:8410"}, TLS: true, Fingerprint: make([]byte, 32), Secret: make([]byte, 32),
		ResumeToken: "1-c740b4779-d0-789c636064000310a501c49c50360710a715e5e7a69766a63040419a02fb",
	}
	event := protocol.Event{
		Ref: ref, Kind: protocol.EventFailed, Role: protocol.RoleSend, Host: "alpha", Worker: "alpha-1", Delivery: 1, At: at,
		Job: job.Name, JobID: item.JobID, Filesystem: step.Filesystem, Target: "bravo",
		Failure: protocol.Failf(protocol.Transient, "connection reset"),
	}
	offered := event
	offered.Kind, offered.Failure, offered.Offer = protocol.EventOffered, nil, send.Offer
	done := event
	done.Kind, done.Failure, done.To, done.Progress = protocol.EventDone, nil, &to, &protocol.Progress{Bytes: 9, Elapsed: time.Second}
	cursor := protocol.AbstractionInfo{
		Host: "alpha", Kind: "cursor", Filesystem: step.Filesystem, Name: from.Full(step.Filesystem), JobID: item.JobID,
		GUID: from.GUID, CreateTXG: from.CreateTXG,
	}
	stream := protocol.StreamName{Ref: ref, ID: "5t3q8x1m"}
	return []any{
		job, item, send, event, offered, done,
		protocol.CancelNotice{Plan: ref.Plan},
		protocol.InventoryPage{Datasets: []protocol.Dataset{{Name: "tank", GUID: 1, Versions: []protocol.Version{from, to}}}, Last: true},
		protocol.EstimateRequest{Steps: []protocol.Step{step}, Send: job.Send},
		protocol.AbstractionsRequest{
			JobIDs: []protocol.JobID{"prod.bravo"}, Roots: []string{"tank"}, Filter: protocol.Filter{"tank<": true}, Stale: true,
		},
		protocol.AbstractionsPage{Abstractions: []protocol.AbstractionInfo{cursor}, Missing: []string{"tank/gone"}, Last: true},
		protocol.ReleaseRequest{Abstractions: []protocol.AbstractionInfo{cursor}, Job: job.Name, Stale: true, DryRun: true},
		protocol.ReleasePage{Results: []protocol.ReleaseResult{{AbstractionInfo: cursor, Outcome: protocol.Released}}, Last: true},
		protocol.MigrateRequest{JobIDs: []protocol.JobID{"prod.bravo"}, DryRun: true},
		protocol.Task{
			Plan: ref.Plan, Steps: []protocol.Step{step}, State: protocol.TaskBackoff, NotBefore: at, Common: &from,
			Partial: &protocol.ResumeState{ToGUID: to.GUID, FromGUID: from.GUID, ToName: to.Name, Bytes: 1 << 20},
		},
		protocol.Call{
			Secret: make([]byte, 32), Header: protocol.StreamHeader{Ref: ref, JobID: item.JobID, ToGUID: to.GUID},
			Objects: &protocol.ObjectsStream{Name: stream.String(), Subject: "zfleet.stream.alpha.x7k2q", Stall: time.Minute},
		},
		protocol.SegmentsStored{
			Stream: stream.String(), First: 7, End: &protocol.StreamEnd{Segments: 8, Bytes: 1 << 26},
			Segments: []protocol.StoredSegment{{
				Chunks: protocol.ChunksName{Segment: protocol.SegmentName{Stream: stream, Number: 7}}.String(), Count: 16, Sequence: 9,
				Size: 8 << 20, Digest: make([]byte, 32),
			}},
		},
		protocol.SegmentsTaken{Stream: stream.String(), Ref: ref, Taken: 7, Confirmation: &protocol.Confirmation{ToGUID: to.GUID}},
		protocol.Plan{ID: ref.Plan, Spec: job, State: protocol.PlanRunning, Started: at},
	}
}

func TestSoundMessagesAreValid(t *testing.T) {
	t.Parallel()
	for _, message := range soundMessages() {
		data, err := protocol.Encode(message)
		require.NoError(t, err)
		into := reflect.New(reflect.TypeOf(message))
		require.NoError(t, protocol.Decode(data, into.Interface()))
	}
}
