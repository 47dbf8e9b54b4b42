// Fail points: the list of a worker's durable actions is that of what it does.

package itest_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker"
	"github.com/zfleet/zfleet/zfs"
)

// pointsPassed notes the fail points that workers pass.
type pointsPassed struct {
	mu     sync.Mutex
	passed map[string]bool
}

// note kills nobody.
func (p *pointsPassed) note(point string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.passed[point] = true
	return false
}

func TestWorkersPassTheFailPointsThatTheyList(t *testing.T) {
	t.Parallel()
	points := &pointsPassed{passed: map[string]bool{}}
	t.Run("scenarios", func(t *testing.T) {
		for name, scenario := range map[string]func(*pair){
			"full and incremental, with placeholders":   (*pair).stepsWithPlaceholders,
			"within one host":                           (*pair).stepsWithinOneHost,
			"fan-out":                                   (*pair).stepsToTwoRoots,
			"a partial state of no use":                 (*pair).stepOverForeignPartialState,
			"refused by the sender":                     (*pair).stepThatTheSenderRefuses,
			"refused by the receiver":                   (*pair).stepThatTheReceiverRefuses,
			"cancelled":                                 (*pair).stepThatIsCancelled,
			"the sender is stopped":                     (*pair).stepWhoseSenderIsStopped,
			"the receiver is stopped":                   (*pair).stepWhoseReceiverIsStopped,
			"items that nobody can read, in both roles": (*pair).unreadableItems,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				p := newPair(t)
				p.hostA.Dies, p.hostB.Dies = points.note, points.note
				scenario(p)
			})
		}
	})
	var passed []string
	for point := range points.passed {
		passed = append(passed, point)
	}
	listed := worker.FailPoints()
	slices.Sort(listed)
	require.Equal(t, slices.Compact(slices.Clone(listed)), listed, "no point is listed twice")
	require.ElementsMatch(t, listed, passed)
}

func (p *pair) stepsWithPlaceholders() {
	names := p.tree(2, 2)
	p.zfs(p.alpha, "hold", "foreign", "tank/data@s1") // a step looks whether that hold is one of its own
	p.startAll()
	job := p.job("prod")
	job.Source.Filesystems = protocol.Filter{names[1]: true}
	p.Submit(job)
	p.MustRun("prod")
	p.Submit(p.job("prod"))
	p.MustRun("prod")
	p.snapshots(names, 3, 4)
	p.MustRun("prod")
	p.requireEqual(names, "backup/alpha")
}

func (p *pair) stepsWithinOneHost() {
	p.tree(1, 2)
	p.alpha.CreatePool("spare")
	p.hostA.Policy = testfleet.AllowAll("tank", "spare")
	p.startAll()
	p.Submit(testfleet.Job("copy", "alpha", protocol.Filter{"tank/data<": true}, protocol.JobTarget{Host: "alpha", Root: "spare"}))
	p.MustRun("copy")
}

func (p *pair) stepsToTwoRoots() {
	p.tree(1, 2)
	p.zfs(p.bravo, "create", "backup/second")
	p.startAll()
	p.Submit(testfleet.Job("prod", "alpha", protocol.Filter{"tank/data<": true},
		protocol.JobTarget{Host: "bravo", Root: "backup/alpha"},
		protocol.JobTarget{Host: "bravo", Root: "backup/second", ID: "second"}))
	p.MustRun("prod")
}

func (p *pair) stepOverForeignPartialState() {
	p.tree(1, 2)
	p.zfs(p.bravo, "create", "backup/alpha/tank")
	var stream bytes.Buffer
	_, err := p.alpha.Run(p.t.Context(), zfs.Command{Args: []string{"zfs", "send", "-p", "tank/data@s2"}, Stdout: &stream})
	require.NoError(p.t, err)
	path := filepath.Join(p.t.TempDir(), "stream")
	require.NoError(p.t, os.WriteFile(path, stream.Bytes()[:stream.Len()/2], 0o600))
	half, err := os.Open(path)
	require.NoError(p.t, err)
	_, err = p.bravo.Run(p.t.Context(),
		zfs.Command{Args: []string{"zfs", "recv", "-u", "-s", "backup/alpha/tank/data"}, Stdin: half})
	require.NoError(p.t, err)
	p.startAll()
	p.Submit(p.job("prod"))
	p.MustRun("prod")
}

func (p *pair) stepThatTheSenderRefuses() {
	p.tree(1, 1)
	p.hostA.Policy.Send = protocol.Filter{"tank/other<": true}
	p.startAll()
	p.Submit(p.job("prod"))
	p.requireRefused("alpha")
}

func (p *pair) stepThatTheReceiverRefuses() {
	p.tree(1, 1)
	p.hostB.Policy.Recv = []worker.RecvRule{{Root: "backup/other"}}
	p.startAll()
	p.Submit(p.job("prod"))
	p.requireRefused("bravo")
}

func (p *pair) stepThatIsCancelled() {
	i := p.interruptTransfer(protocol.TransportTCP)
	require.NoError(p.t, p.Client.Cancel(p.t.Context(), i.plan))
	p.Wait(i.plan)
	p.requireNoItems()
}

func (p *pair) stepWhoseSenderIsStopped() {
	i := p.interruptTransfer(protocol.TransportTCP)
	i.sender.Stop()
	p.StartWorker(p.hostA)
	p.Wait(i.plan)
}

func (p *pair) stepWhoseReceiverIsStopped() {
	i := p.interruptTransfer(protocol.TransportTCP)
	i.receiver.Stop()
	p.StartWorker(p.hostB)
	p.Wait(i.plan)
}

func (p *pair) unreadableItems() {
	p.startAll()
	for host, role := range map[protocol.Host]protocol.Role{"alpha": protocol.RoleSend, "bravo": protocol.RoleRecv} {
		_, err := p.Resources.JetStream.PublishMsg(p.t.Context(), &nats.Msg{Subject: protocol.WorkSubject(host, role), Data: []byte("nonsense")})
		require.NoError(p.t, err)
	}
	p.requireNoItems()
}

// requireNoItems waits until no work item is left.
func (p *pair) requireNoItems() {
	p.t.Helper()
	require.Eventually(p.t, func() bool {
		info, err := p.Resources.Work.Info(p.t.Context())
		return err == nil && info.State.Msgs == 0
	}, testfleet.Timeout, 20*time.Millisecond, "every item is finished with")
}
