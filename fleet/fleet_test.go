package fleet

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/zfleet/zfleet/natsserver"
	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.ClientLeak()) }

// scripted is a fleet whose coordinator and workers are played by the test.
type scripted struct {
	*Client
	t      *testing.T
	server *natsserver.Server
	conn   *nats.Conn
}

func newScripted(t *testing.T) *scripted {
	t.Helper()
	server, conn, js := natstest.Run(t)
	resources, err := protocol.EnsureResources(t.Context(), js, protocol.ResourceOptions{})
	require.NoError(t, err)
	return &scripted{Client: New(conn, resources, Options{By: "test"}), t: t, server: server, conn: conn}
}

func (s *scripted) lead() {
	s.t.Helper()
	s.putLeader(protocol.Lease{Holder: "c1", Host: "alpha", Since: time.Unix(0, 0).UTC()})
}

func (s *scripted) putLeader(lease protocol.Lease) {
	s.t.Helper()
	value, err := protocol.EncodeValue(lease)
	require.NoError(s.t, err)
	_, err = s.resources.Leader.Put(context.Background(), protocol.LeaderKey, value)
	require.NoError(s.t, err)
}

func (s *scripted) putPlan(plan protocol.Plan) {
	s.t.Helper()
	value, err := protocol.EncodeValue(plan)
	require.NoError(s.t, err)
	_, err = s.resources.Plans.Put(context.Background(), protocol.PlanKey(plan.ID), value)
	require.NoError(s.t, err)
}

func (s *scripted) putTask(task protocol.Task) {
	s.t.Helper()
	value, err := protocol.EncodeValue(task)
	require.NoError(s.t, err)
	_, err = s.resources.Plans.Put(context.Background(), protocol.TaskKey(task.Plan, task.Number), value)
	require.NoError(s.t, err)
}

func (s *scripted) tell(event protocol.Event) {
	s.t.Helper()
	_, err := protocol.PublishEvent(context.Background(), s.resources.JetStream, event)
	require.NoError(s.t, err)
}

func (s *scripted) put(bucket, key string, value []byte) {
	s.t.Helper()
	kv, err := s.resources.JetStream.KeyValue(context.Background(), bucket)
	require.NoError(s.t, err)
	_, err = kv.Put(context.Background(), key, value)
	require.NoError(s.t, err)
}

func exampleJob(name string) protocol.Job {
	job := protocol.DefaultJob()
	job.Name = name
	job.Source = protocol.JobSource{Host: "alpha", Filesystems: protocol.Filter{"tank<": true}}
	job.Targets = []protocol.JobTarget{{Host: "bravo", Root: "backup"}}
	return job
}

func exampleTask(plan protocol.PlanID, number int, filesystem string) protocol.Task {
	to := protocol.Version{Type: protocol.Snapshot, Name: "a", GUID: 7, CreateTXG: 3, Creation: time.Unix(1, 0).UTC()}
	return protocol.Task{
		Plan: plan, Number: number, TargetHost: "bravo", JobID: "prod.bravo",
		Filesystem: filesystem, TargetFilesystem: "backup/" + filesystem,
		Steps: []protocol.Step{{Filesystem: filesystem, TargetFilesystem: "backup/" + filesystem, To: to, Initial: true, Estimate: 1000}},
		State: protocol.TaskReady,
	}
}
