package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

// resources makes the fleet's streams and buckets, as a coordinator would.
func (b *testbed) resources() {
	b.t.Helper()
	conn, err := nats.Connect(b.env["ZFLEET_NATS"])
	require.NoError(b.t, err)
	defer conn.Close()
	js, err := protocol.JetStream(conn, "")
	require.NoError(b.t, err)
	_, err = protocol.EnsureResources(b.t.Context(), js, protocol.ResourceOptions{})
	require.NoError(b.t, err)
}

const jobFile = `
job: prod
source: {host: alpha, filesystems: {"tank/data<": true, "tank/data/www": false}}
targets: [{host: bravo, root: backup}]
replication: {initial: all}
`

// TestAnOperatorsDay goes through all commands in the order in which an operator would.
func TestAnOperatorsDay(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	b.fleet()
	b.furnish()
	file := filepath.Join(t.TempDir(), "prod.yaml")
	require.NoError(t, os.WriteFile(file, []byte(jobFile), 0o600))

	golden(t, "status-empty", b.must("status"))
	golden(t, "plan-of-file", b.must("plan", "-f", file))
	require.Empty(t, b.hosts["bravo"].Datasets("backup/tank"), "a dry run must not change anything")
	golden(t, "submit", b.must("submit", "-f", file))
	golden(t, "jobs", b.must("jobs"))
	written := b.must("jobs", "prod", "-o", "yaml")
	require.Contains(t, written, "tank/data<: true")
	_, err := protocol.ParseJob([]byte(written))
	require.NoError(t, err, "zctl submit -f takes back what zctl jobs writes")
	golden(t, "submit-again", b.must("submit", "-f", file))
	golden(t, "plan", b.must("plan", "prod"))

	waited := b.must("run", "prod", "--wait")
	require.Regexp(t, `plan \S+ of job prod`, waited)
	require.Contains(t, waited, "tank/data/vol → bravo: done, ")
	require.Regexp(t, `(?m)^done: 3 replicated, .* in `, waited)

	b.zfs("alpha", "snapshot", "-r", "tank/data@two")
	asked := b.must("run", "prod")
	id := regexp.MustCompile(`plan (\S+) of job prod is requested`).FindStringSubmatch(asked)[1]
	require.Contains(t, b.must("plans", id, "--wait"), "done: 3 replicated")
	golden(t, "plans-one", b.must("plans", id))
	golden(t, "plans", b.must("plans", "--job", "prod"))
	golden(t, "cursors", b.must("cursors", "prod"))
	golden(t, "abstractions", b.must("abstractions", "list", "alpha", "bravo"))
	require.Contains(t, b.must("run", "prod", "--wait"), "done: 3 up to date")
	golden(t, "plan-up-to-date", b.must("plan", "prod"))
	golden(t, "status", strings.Split(b.must("status"), "coordinator: ")[0]+statusWithoutLeader(b.must("status")))
	require.Contains(t, b.must("hosts"), "backup (")

	result := b.zctl("cancel", id)
	require.Equal(t, exitFailed, result.code)
	require.Contains(t, result.err, "is done already; there is nothing to cancel")

	events := b.must("events", "--plan", id)
	require.Contains(t, events, "done")
	require.NotContains(t, events, "progress")
	require.NotContains(t, b.must("events", "--progress", "-o", "json"), "secret")
	require.Contains(t, b.must("events", "--dead-letters"), "REASON")
}

func statusWithoutLeader(text string) string {
	_, rest, _ := strings.Cut(text, "\n")
	return rest
}

func TestResultsForPrograms(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	b.fleet()
	b.furnish()

	submitted := b.must("submit", "--from", "alpha:tank/data<", "--exclude", "tank/data/www", "--to", "bravo:backup", "-o", "json")
	require.JSONEq(t, `{"job": "alpha-tank-data-to-bravo", "outcome": "created"}`, submitted)

	var last struct {
		Kind  string               `json:"kind"`
		Plan  protocol.Plan        `json:"plan"`
		Tasks []fleet.TaskProgress `json:"tasks"`
	}
	for line := range strings.Lines(b.must("run", "alpha-tank-data-to-bravo", "--wait", "-o", "json")) {
		require.NoError(t, json.Unmarshal([]byte(line), &last), "%s", line)
	}
	require.Equal(t, "result", last.Kind)
	require.Equal(t, protocol.PlanDone, last.Plan.State)
	require.Len(t, last.Tasks, 3)

	for _, command := range []string{"jobs", "plans", "hosts", "cursors", "abstractions list", "status", "plan alpha-tank-data-to-bravo", "events --dead-letters", "plans " + string(last.Plan.ID)} {
		var fromJSON, fromYAML any
		require.NoError(t, json.Unmarshal([]byte(b.must(append(strings.Fields(command), "-o", "json")...)), &fromJSON), command)
		require.NotNil(t, fromJSON, "%s must not print null", command)
		text := b.must(append(strings.Fields(command), "-o", "yaml")...)
		require.NoError(t, yaml.Unmarshal([]byte(text), &fromYAML), "%s: %s", command, text)
	}
	for line := range strings.Lines(b.must("events", "-o", "json")) {
		var record fleet.EventRecord
		require.NoError(t, json.Unmarshal([]byte(line), &record), "%s", line)
		require.NotNil(t, record.Event)
	}
}

func TestAConflictIsExplained(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	b.fleet()
	b.furnish()
	// A filesystem of the same name that was not replicated from here.
	b.zfs("bravo", "create", "backup/tank")
	b.zfs("bravo", "create", "backup/tank/data")
	b.zfs("bravo", "snapshot", "backup/tank/data@foreign")
	before := b.hosts["bravo"].Datasets("backup")

	planned := b.zctl("plan", "--from", "alpha:tank/data", "--to", "bravo:backup")
	require.Equal(t, exitFailed, planned.code, "%s%s", planned.out, planned.err)
	golden(t, "plan-conflict", planned.out)
	require.Equal(t, before, b.hosts["bravo"].Datasets("backup"))

	ran := b.zctl("submit", "--from", "alpha:tank/data", "--to", "bravo:backup", "--wait")
	require.Equal(t, exitFailed, ran.code)
	require.Contains(t, ran.out, "tank/data → bravo: conflict: ")
	require.Contains(t, ran.out, "failed: 1 in conflict")
}

func TestAPlanTellsWhatItStandsOn(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	b.fleet()
	b.furnish()
	b.must("submit", "--job", "prod", "--from", "alpha:tank/data<", "--exclude", "tank/data/vol", "--to", "bravo:backup", "--initial", "all", "--wait")
	// One filesystem has lost its snapshot and goes on from its cursor, one is half received, and one is in conflict.
	b.zfs("alpha", "destroy", "tank/data@one")
	b.zfs("bravo", "snapshot", "backup/tank/data/www@foreign")
	require.NoError(t, b.hosts["alpha"].Generate("tank/data/db", "more", 8, 1<<20))
	b.zfs("alpha", "snapshot", "tank/data/db@two")
	stuck := b.hosts["bravo"].Inject(zfsfake.Fault{Match: zfsfake.Command("zfs", "recv"), HangAfter: 1 << 19})
	defer stuck.Remove()
	id := planName.FindString(b.must("run", "prod"))
	<-stuck.Reached()
	b.must("cancel", id, "--wait")
	stuck.Remove()
	b.zfs("alpha", "snapshot", "tank/data@two")

	planned := b.zctl("plan", "prod")
	require.Equal(t, exitPartial, planned.code, "%s%s", planned.out, planned.err)
	golden(t, "plan-of-all-kinds", planned.out)
	var plan dryRun
	require.NoError(t, json.Unmarshal([]byte(b.zctl("plan", "prod", "-o", "json").out), &plan))
	require.Len(t, plan.Tasks, 3)
	require.Len(t, plan.Abstractions, 8, "three cursors, three last-received holds, and the holds of the step that was stopped")
	require.Equal(t, protocol.Bookmark, plan.Tasks[0].Common.Type)
	require.Equal(t, "tank/data/db@two", plan.Tasks[1].Partial.ToName)
	require.Positive(t, plan.Tasks[1].Partial.Bytes)

	// Once its snapshot is gone, the partial state is of no use.
	b.zfs("alpha", "release", "zrepl_STEP_J_prod.bravo", "tank/data/db@two")
	b.zfs("alpha", "destroy", "tank/data/db@two")
	require.Contains(t, b.zctl("plan", "prod").out, "two half received, which fits no step; the next step abandons it")
}

func TestAPolicyRefuses(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	b.fleet()
	b.furnish()
	b.zfs("alpha", "create", "tank/private")
	b.zfs("alpha", "snapshot", "tank/private@one")

	refused := b.zctl("submit", "--from", "alpha:tank/private", "--to", "bravo:backup", "--wait")
	require.Equal(t, exitFailed, refused.code, "%s%s", refused.out, refused.err)
	require.Contains(t, refused.out, "alpha: the policy of this host does not allow to send tank/private")
	require.Contains(t, refused.out, "worker.allow.send")
	require.Empty(t, b.hosts["bravo"].Datasets("backup/tank/private"))

	partial := b.zctl("submit", "--from", "alpha:tank/private", "--from", "alpha:tank/data", "--to", "bravo:backup", "--job", "both", "--wait")
	require.Equal(t, exitPartial, partial.code, "%s%s", partial.out, partial.err)
	require.Contains(t, partial.out, "partial: 1 replicated, 1 failed")
}

func TestNoCoordinatorIsSaid(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	b.listen()
	b.resources()
	b.must("submit", "--from", "alpha:tank", "--to", "bravo:backup", "--job", "prod")

	result := b.zctl("run", "prod", "--wait", "--patience", "100ms")
	require.Equal(t, exitFailed, result.code)
	require.Contains(t, result.out, "waiting: no coordinator is running: start one with: zctl coordinator")
	require.Contains(t, result.err, "watch it again with: zctl plans ")

	result = b.zctl("run", "prod", "--wait", "--timeout", "100ms")
	require.Equal(t, exitFailed, result.code)
	require.Contains(t, result.err, "it took longer than 100ms")
	require.Contains(t, b.must("status"), "no coordinator is running")
	require.Contains(t, b.must("plans"), "requested")
}

func TestServerKeepsItsStore(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	b.hosts["alpha"].CreatePool("tank")
	b.hosts["alpha"].CreatePool("backup")
	b.furnish()
	store := t.TempDir()
	serve := func() func() {
		logs, stop := b.start("server", "--host", "alpha", "--store", store, "--nats-listen", "127.0.0.1:0", "--listen", "127.0.0.1:0",
			"--allow-send", "tank<", "--allow-recv", "backup", "--log-format", "json")
		address := regexp.MustCompile(`"url":"([^"]+)"`)
		require.Eventually(t, func() bool { return address.MatchString(logs.String()) }, time.Minute, 10*time.Millisecond, "%s", logs)
		b.env["ZFLEET_NATS"] = ""
		url := address.FindStringSubmatch(logs.String())[1]
		require.Eventually(t, func() bool {
			hosts := b.zctl("hosts", "-o", "json", "--nats", url)
			return hosts.code == exitDone && strings.Contains(hosts.out, `"alpha"`)
		}, time.Minute, 50*time.Millisecond, "the worker did not come up")
		b.env["ZFLEET_NATS_URL"] = url
		return stop
	}
	stop := serve()
	out := b.must("submit", "--from", "alpha:tank/data<", "--to", "alpha:backup", "--job", "prod", "--wait", "--nats", b.env["ZFLEET_NATS_URL"])
	require.Contains(t, out, "done: 4 replicated")
	stop()

	stop = serve()
	out = b.must("run", "prod", "--wait", "--nats", b.env["ZFLEET_NATS_URL"])
	require.Contains(t, out, "done: 4 up to date", "the job must have outlived the server")
	stop()
}

func TestAWorkerWaitsForTheFleet(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	b.listen()
	b.hosts["alpha"].CreatePool("tank")
	logs, stop := b.start("worker", "--host", "alpha", "--listen", "127.0.0.1:0")
	require.Eventually(t, func() bool { return strings.Contains(logs.String(), "waiting until the fleet is there") },
		time.Minute, 10*time.Millisecond, "%s", logs)
	b.start("coordinator", "--host", "alpha", "--log-level", "error")
	require.Eventually(t, func() bool { return strings.Contains(logs.String(), "worker runs") }, time.Minute, 10*time.Millisecond, "%s", logs)
	require.Contains(t, logs.String(), "this host's policy allows nothing")
	stop()
}

func TestCancellingInTheMiddle(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	b.fleet()
	b.furnish()
	b.must("submit", "--from", "alpha:tank/data", "--to", "bravo:backup", "--job", "prod")
	stuck := b.hosts["alpha"].Inject(zfsfake.Fault{Match: zfsfake.Command("zfs", "send").With("-L"), HangAfter: 1 << 10})
	defer stuck.Remove()
	asked := b.must("run", "prod")
	id := planName.FindString(asked)
	<-stuck.Reached()

	out := b.must("cancel", id, "--wait")
	require.Contains(t, out, "cancelled: 1 cancelled")
	result := b.zctl("plans", id, "--wait")
	require.Equal(t, exitFailed, result.code)
	require.Contains(t, b.must("plans", id), "cancelled")
}

var planName = regexp.MustCompile(`\d{8}t\d{6}-[a-z0-9]{5}`)

func TestInterruptingTheWait(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	b.listen()
	b.resources()
	b.must("submit", "--from", "alpha:tank", "--to", "bravo:backup", "--job", "prod")

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, errOut := &safeBuffer{}, &safeBuffer{}
	done := make(chan int, 1)
	go func() { done <- b.program("", out, errOut).execute(ctx, []string{"run", "prod", "--wait"}) }()
	require.Eventually(t, func() bool { return strings.Contains(out.String(), "no coordinator is running") }, time.Minute, 10*time.Millisecond)
	cancel()
	require.Equal(t, exitFailed, <-done)
	require.Regexp(t, `which goes on by itself: .*; follow it again with: zctl plans \S+ --wait, or stop it with: zctl cancel \S+`, errOut.String())
}

func TestWatchingTheStatus(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	b.listen()
	b.resources()
	for _, format := range []string{"table", "json", "yaml"} {
		out, stop := b.startOut("status", "-w", "--interval", "10ms", "-o", format)
		require.Eventually(t, func() bool {
			return strings.Count(out.String(), "eader") >= 2 || strings.Count(out.String(), "no coordinator") >= 2
		},
			time.Minute, 10*time.Millisecond, "%s", format)
		stop()
	}
}

func TestFollowingEvents(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	b.fleet()
	b.furnish()
	out, stop := b.startOut("events", "-f")
	b.must("submit", "--from", "alpha:tank/data", "--to", "bravo:backup", "--wait")
	require.Eventually(t, func() bool { return strings.Contains(out.String(), "done  send  on alpha  tank/data → bravo  @one") },
		time.Minute, 10*time.Millisecond)
	stop()
}
