package protocol_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/zfleet/zfleet/protocol"
)

func TestNames(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"a", "alpha-1", "1", strings.Repeat("a", 63)} {
		parsed, err := protocol.ParseHost(host)
		require.NoError(t, err)
		require.Equal(t, host, parsed.String())
	}
	for _, host := range []string{"", "Alpha", "a.b", "a_b", "a b", "ä", "a\n", "*", strings.Repeat("a", 64)} {
		_, err := protocol.ParseHost(host)
		require.ErrorContains(t, err, "lower-case letters", "host %q", host)
	}
	for _, id := range []string{"a", "prod.bravo", "zrepl push: 1", "A-_.: ", strings.Repeat("a", protocol.MaxJobIDLength)} {
		parsed, err := protocol.ParseJobID(id)
		require.NoError(t, err)
		require.Equal(t, id, parsed.String())
	}
	for _, id := range []string{"", "-a", ".a", " a", "a/b", "a@b", "a#b", "a%b", "ä", "a\n", strings.Repeat("a", protocol.MaxJobIDLength+1)} {
		_, err := protocol.ParseJobID(id)
		require.ErrorContains(t, err, "job id", "job id %q", id)
	}
	for _, id := range []protocol.PlanID{"", "A", "a.b", "a b", "*", protocol.PlanID(strings.Repeat("a", 64))} {
		require.ErrorContains(t, id.Validate(), "plans are named like", "plan %q", id)
	}
}

func TestPlansSortByTime(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		seconds := rapid.Int64Range(0, 1<<33)
		entropy := rapid.StringMatching(`[a-z0-9]{5}`)
		a, b := seconds.Draw(t, "a"), seconds.Draw(t, "b")
		first := protocol.NewPlanID(time.Unix(min(a, b), 0), entropy.Draw(t, "entropy"))
		second := protocol.NewPlanID(time.Unix(max(a, b), 0), entropy.Draw(t, "entropy"))
		require.NoError(t, first.Validate())
		if a != b {
			require.Less(t, first, second)
		}
	})
}

func TestVersion(t *testing.T) {
	t.Parallel()
	snapshot := protocol.Version{Type: protocol.Snapshot, Name: "a", GUID: 7}
	bookmark := protocol.Version{Type: protocol.Bookmark, Name: "a", GUID: 7}
	require.NoError(t, snapshot.Validate())
	require.NoError(t, bookmark.Validate())
	require.Equal(t, "tank@a", snapshot.Full("tank"))
	require.Equal(t, "tank#a", bookmark.Full("tank"))
	require.Equal(t, "@a (guid 7)", snapshot.String())
	require.ErrorContains(t, protocol.Version{Type: "x", Name: "a", GUID: 7}.Validate(), "unknown type")
	require.ErrorContains(t, protocol.Version{Type: protocol.Snapshot, GUID: 7}.Validate(), "no name")
	require.ErrorContains(t, protocol.Version{Type: protocol.Snapshot, Name: "a"}.Validate(), "no guid")
}

func TestValidateStep(t *testing.T) {
	t.Parallel()
	a := protocol.Version{Type: protocol.Snapshot, Name: "a", GUID: 1}
	b := protocol.Version{Type: protocol.Snapshot, Name: "b", GUID: 2}
	cursor := protocol.Version{Type: protocol.Bookmark, Name: "c", GUID: 1}
	step := protocol.Step{Filesystem: "tank", TargetFilesystem: "backup/tank", From: &a, To: b}
	for want, sound := range map[string]protocol.Step{
		"@a → @b":      step,
		"full @b":      {Filesystem: "tank", TargetFilesystem: "backup/tank", To: b},
		"@a → @b (+3)": {Filesystem: "tank", TargetFilesystem: "backup/tank", From: &a, To: b, Intermediates: 3},
		"#c → @b":      {Filesystem: "tank", TargetFilesystem: "backup/tank", From: &cursor, To: b},
	} {
		require.NoError(t, sound.Validate())
		require.Equal(t, want, sound.String())
		require.Equal(t, sound.Intermediates+1, sound.Snapshots())
	}
	for says, change := range map[string]func(*protocol.Step){
		"both are needed":                  func(s *protocol.Step) { s.Filesystem = "" },
		`target filesystem ""`:             func(s *protocol.Step) { s.TargetFilesystem = "" },
		"to: version":                      func(s *protocol.Step) { s.To.GUID = 0 },
		"only snapshots can be sent":       func(s *protocol.Step) { s.To.Type = protocol.Bookmark },
		"-1 intermediate":                  func(s *protocol.Step) { s.Intermediates = -1 },
		"a full send carries no":           func(s *protocol.Step) { s.From, s.Intermediates = nil, 1 },
		"from: a version has no name":      func(s *protocol.Step) { s.From = &protocol.Version{Type: protocol.Snapshot} },
		"from and to are both @b (guid 2)": func(s *protocol.Step) { s.From = &b },
		"cannot begin at bookmark #c":      func(s *protocol.Step) { s.From, s.Intermediates = &cursor, 1 },
	} {
		broken := step
		change(&broken)
		require.ErrorContains(t, broken.Validate(), says)
	}
}

func soundItem(t *testing.T, role protocol.Role) protocol.WorkItem {
	t.Helper()
	for _, message := range soundMessages() {
		if item, ok := message.(protocol.WorkItem); ok && item.Role == role {
			return item
		}
	}
	require.FailNow(t, "there is no sound item", "role %s", role)
	return protocol.WorkItem{}
}

func TestValidateWorkItem(t *testing.T) {
	t.Parallel()
	for says, change := range map[string]func(*protocol.WorkItem){
		"plans are named like":   func(w *protocol.WorkItem) { w.Ref.Plan = "x.y" },
		"is out of range":        func(w *protocol.WorkItem) { w.Ref.Attempt = 0 },
		"#2 is out of range":     func(w *protocol.WorkItem) { w.Ref.Task = -1 },
		`unknown role "x"`:       func(w *protocol.WorkItem) { w.Role = "x" },
		"no job":                 func(w *protocol.WorkItem) { w.Job = "" },
		`job id ""`:              func(w *protocol.WorkItem) { w.JobID = "" },
		"source: host name":      func(w *protocol.WorkItem) { w.Source = "a.*" },
		"target: host name":      func(w *protocol.WorkItem) { w.Target = ">" },
		`protection ""`:          func(w *protocol.WorkItem) { w.Protection.Initial = "" },
		`protection "x"`:         func(w *protocol.WorkItem) { w.Protection.Incremental = "x" },
		"only snapshots":         func(w *protocol.WorkItem) { w.Step.To.Type = protocol.Bookmark },
		"is not <root>/<source":  func(w *protocol.WorkItem) { w.Step.TargetFilesystem = "rpool/ROOT" },
		"below ":                 func(w *protocol.WorkItem) { w.TargetRoot = "" },
		"deadline must be":       func(w *protocol.WorkItem) { w.Deadlines.Claim = 0 },
		"every deadline must be": func(w *protocol.WorkItem) { w.Deadlines.Stall = -1 },
		`transport "carrier"`:    func(w *protocol.WorkItem) { w.Transport = "carrier" },
		`compression "lzma"`:     func(w *protocol.WorkItem) { w.Delivery.Compression = "lzma" },
		"cannot be one of its":   func(w *protocol.WorkItem) { w.Others = []protocol.Receiver{w.Receiver()} },
		"too many":               func(w *protocol.WorkItem) { w.Others = make([]protocol.Receiver, 256) },
		"only a send item": func(w *protocol.WorkItem) {
			w.Role, w.Others = protocol.RoleRecv, []protocol.Receiver{w.Receiver()}
		},
		"is not <root>/<source path>": func(w *protocol.WorkItem) {
			other := w.Receiver()
			other.Ref.Task++
			other.TargetRoot = "elsewhere"
			w.Others = []protocol.Receiver{other}
		},
		"transport local is one": func(w *protocol.WorkItem) { w.Transport = protocol.TransportLocal },
		"needs the receiver's":   func(w *protocol.WorkItem) { w.Offer = nil },
		"no address is":          func(w *protocol.WorkItem) { w.Offer = &protocol.Offer{} },
		"no secret is": func(w *protocol.WorkItem) {
			w.Offer = &protocol.Offer{Addresses: []string{"a:1"}, Secret: make([]byte, 15)}
		},
		"no fingerprint is": func(w *protocol.WorkItem) {
			w.Offer = &protocol.Offer{Addresses: []string{"a:1"}, Secret: make([]byte, 16), TLS: true, Fingerprint: []byte{1}}
		},
	} {
		item := soundItem(t, protocol.RoleSend)
		require.NoError(t, item.Validate())
		change(&item)
		err := item.Validate()
		require.ErrorContains(t, err, says)
		require.Equal(t, protocol.Usage, protocol.KindOf(err, protocol.Transient))
	}
	for name, change := range map[string]func(*protocol.WorkItem){
		"plain TCP": func(w *protocol.WorkItem) {
			w.Offer = &protocol.Offer{Addresses: []string{"a:1"}, Secret: make([]byte, 16)}
		},
		"nothing to send": func(w *protocol.WorkItem) { w.Offer = &protocol.Offer{HasTo: true} },
		"local": func(w *protocol.WorkItem) {
			w.Transport, w.Target, w.Offer = protocol.TransportLocal, w.Source, nil
		},
	} {
		item := soundItem(t, protocol.RoleSend)
		change(&item)
		require.NoError(t, item.Validate(), name)
	}
}

func TestWorkItemsAreTold(t *testing.T) {
	t.Parallel()
	send, recv := soundItem(t, protocol.RoleSend), soundItem(t, protocol.RoleRecv)
	require.Equal(t, protocol.Host("alpha"), send.Host())
	require.Equal(t, protocol.Host("bravo"), recv.Host())
	require.Equal(t, "20261123t015322-x7k2q.3-1.2.send", send.MessageID())
	require.NotEqual(t, send.MessageID(), recv.MessageID())
	require.Equal(t, "20261123t015322-x7k2q/3-1#2", send.Ref.String())
	require.Equal(t, []protocol.Role{protocol.RoleSend, protocol.RoleRecv}, protocol.Roles())

	send.Protection = protocol.ProtectionPolicy{Initial: protocol.GuaranteeNothing, Incremental: protocol.GuaranteeIncremental}
	require.Equal(t, protocol.GuaranteeIncremental, send.ProtectionOfStep())
	send.Step.Initial = true
	require.Equal(t, protocol.GuaranteeNothing, send.ProtectionOfStep())
}

func TestValidateEvent(t *testing.T) {
	t.Parallel()
	sound := func() protocol.Event {
		return protocol.Event{Ref: protocol.StepRef{Plan: "p", Attempt: 1}, Kind: protocol.EventClaimed, Host: "alpha"}
	}
	require.NoError(t, sound().Validate())
	for says, change := range map[string]func(*protocol.Event){
		"plans are named like": func(e *protocol.Event) { e.Ref.Plan = "" },
		"host name":            func(e *protocol.Event) { e.Host = "" },
		"no offer":             func(e *protocol.Event) { e.Kind = protocol.EventOffered },
		"received of p":        func(e *protocol.Event) { e.Kind = protocol.EventReceived },
		"done of p":            func(e *protocol.Event) { e.Kind = protocol.EventDone },
		"no failure":           func(e *protocol.Event) { e.Kind = protocol.EventFailed },
		`unknown kind "x"`:     func(e *protocol.Event) { e.Kind = "x" },
	} {
		event := sound()
		change(&event)
		require.ErrorContains(t, event.Validate(), says)
	}
}

func TestEventMessageIDs(t *testing.T) {
	t.Parallel()
	event := protocol.Event{
		Ref: protocol.StepRef{Plan: "p", Task: 1, Step: 2, Attempt: 3}, Kind: protocol.EventFailed, Role: protocol.RoleSend,
		Host: "alpha", Worker: "w", Delivery: 4,
	}
	require.Equal(t, "p.1-2.3.send.failed.w.4", event.MessageID())
	event.Kind = protocol.EventProgress
	require.Empty(t, event.MessageID(), "progress is not de-duplicated")
}

func TestFinalStates(t *testing.T) {
	t.Parallel()
	for state, final := range map[protocol.PlanState]bool{
		protocol.PlanPlanning: false, protocol.PlanRunning: false, protocol.PlanPlanned: true, protocol.PlanDone: true,
		protocol.PlanPartial: true, protocol.PlanFailed: true, protocol.PlanCancelled: true, "of a later release": false,
	} {
		require.Equal(t, final, state.Final(), "plan state %s", state)
	}
	for state, final := range map[protocol.TaskState]bool{
		protocol.TaskReady: false, protocol.TaskOffering: false, protocol.TaskSending: false, protocol.TaskBackoff: false,
		protocol.TaskDone: true, protocol.TaskFailed: true, protocol.TaskConflict: true, protocol.TaskCancelled: true,
	} {
		require.Equal(t, final, state.Final(), "task state %s", state)
	}
	steps := []protocol.Step{{Estimate: 1}, {Estimate: 10}, {Estimate: 100}}
	require.Equal(t, uint64(110), protocol.Task{Steps: steps, Next: 1}.Expected())
	require.Zero(t, protocol.Task{Steps: steps, Next: 3}.Expected())
}
