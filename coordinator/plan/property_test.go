package plan_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/zfleet/zfleet/coordinator/plan"
	"github.com/zfleet/zfleet/protocol"
)

// situation is one filesystem on both sides, drawn at random.
type situation struct {
	job      protocol.Job
	source   protocol.Dataset
	receiver *protocol.Dataset
}

func (s situation) plan() plan.Result {
	return plan.Filesystem(s.job, s.job.Targets[0], s.source, s.receiver)
}

// wanted tells whether the job wants the snapshot; the names of those it does not want begin with "no".
func (s situation) wanted(version protocol.Version) bool {
	return version.IsSnapshot() && (s.job.Snapshots.Include == "" || !strings.HasPrefix(version.Name, "no"))
}

// drawSituation draws a source with a history of which some snapshots were destroyed and some have bookmarks, and a target
// that received some of that history and may have snapshots of its own anywhere between, a partial state, or nothing.
func drawSituation(t *rapid.T) situation {
	s := situation{job: job()}
	s.job.Replication.Initial = rapid.SampledFrom([]protocol.InitialPolicy{
		protocol.InitialMostRecent, protocol.InitialAll, protocol.InitialFail,
	}).Draw(t, "initial")
	s.job.Recv.ForceRollback = rapid.Bool().Draw(t, "rollback")
	if rapid.Bool().Draw(t, "filter") {
		s.job.Snapshots.Include = "^yes"
	}
	history := drawHistory(t)
	s.source = protocol.Dataset{Name: "tank/data", GUID: 1}
	for i, snapshot := range history {
		fates := []string{"there", "there", "there", "bookmarked", "bookmark only", "gone"}
		switch rapid.SampledFrom(fates).Draw(t, fmt.Sprint("source ", i)) {
		case "there":
			s.source.Versions = append(s.source.Versions, snapshot)
		case "bookmarked":
			s.source.Versions = append(s.source.Versions, bookmarkOf(snapshot), snapshot)
		case "bookmark only":
			s.source.Versions = append(s.source.Versions, bookmarkOf(snapshot))
		}
	}
	s.receiver = drawReceiver(t, history)
	return s
}

func drawHistory(t *rapid.T) []protocol.Version {
	history := make([]protocol.Version, rapid.IntRange(0, 9).Draw(t, "history"))
	for i := range history {
		history[i] = protocol.Version{
			Type:      protocol.Snapshot,
			Name:      fmt.Sprintf("%s%d", rapid.SampledFrom([]string{"yes", "yes", "no"}).Draw(t, "prefix"), i),
			GUID:      uint64(1000 + i),
			CreateTXG: uint64(50 + 4*i),
			Creation:  began.Add(time.Duration(i) * time.Minute),
		}
	}
	return history
}

func bookmarkOf(snapshot protocol.Version) protocol.Version {
	snapshot.Type, snapshot.Name = protocol.Bookmark, "bookmark_of_"+snapshot.Name
	return snapshot
}

func drawReceiver(t *rapid.T, history []protocol.Version) *protocol.Dataset {
	receiver := &protocol.Dataset{Name: "backup/alpha/tank/data", GUID: 2}
	switch rapid.SampledFrom([]string{"missing", "placeholder", "empty", "received", "received", "received"}).Draw(t, "receiver") {
	case "missing":
		return nil
	case "placeholder":
		receiver.Placeholder = true
	case "received":
		upTo := rapid.IntRange(0, len(history)).Draw(t, "received up to")
		for i, snapshot := range history[:upTo] {
			if rapid.IntRange(0, 3).Draw(t, fmt.Sprint("received ", i)) > 0 {
				receiver.Versions = append(receiver.Versions, snapshot)
			}
		}
		for i := range rapid.SampledFrom([]int{0, 0, 0, 1, 2}).Draw(t, "own snapshots") {
			own := protocol.Version{
				Type: protocol.Snapshot, Name: fmt.Sprint("own", i), GUID: uint64(5000 + i),
				Creation: began.Add(time.Hour), UserRefs: uint64(rapid.IntRange(0, 1).Draw(t, "holds")),
			}
			if len(history) > 0 && rapid.IntRange(0, 4).Draw(t, "name taken") == 0 {
				name := rapid.SampledFrom(history).Draw(t, "name").Name
				if !slices.ContainsFunc(receiver.Versions, func(v protocol.Version) bool { return v.Name == name }) {
					own.Name = name
				}
			}
			at := rapid.IntRange(0, len(receiver.Versions)).Draw(t, "own at")
			receiver.Versions = slices.Insert(receiver.Versions, at, own)
		}
		for i := range receiver.Versions {
			receiver.Versions[i].CreateTXG = uint64(7 + 5*i)
		}
	}
	if rapid.Bool().Draw(t, "partial") {
		guid := rapid.Uint64Range(999, 1000+uint64(len(history)))
		receiver.Resume = &protocol.ResumeState{ToGUID: guid.Draw(t, "partial to"), Bytes: 1}
		if rapid.Bool().Draw(t, "partial increment") {
			receiver.Resume.FromGUID = guid.Draw(t, "partial from")
		}
	}
	return receiver
}

// receive does to the target what zfs send and zfs recv would do for one elementary send or range, and fails the test where
// they would refuse. It gives the target's new state; the old one is left as it is.
func (s situation) receive(t require.TestingT, step protocol.Step) situation {
	next := protocol.Dataset{Name: step.TargetFilesystem, GUID: 2}
	require.True(t, has(s.source.Versions, step.To), "the source has %s", step.To)
	var carried []protocol.Version
	if step.From == nil {
		require.Zero(t, step.Intermediates, "a full send carries one snapshot")
		if s.receiver != nil {
			require.Empty(t, s.receiver.Versions, "a full send needs a target without snapshots")
			require.True(t, s.receiver.Placeholder || s.receiver.Resume != nil, "a full send must not replace a foreign dataset")
		}
		carried = []protocol.Version{step.To}
	} else {
		require.True(t, has(s.source.Versions, *step.From), "the source has %s", *step.From)
		require.Less(t, step.From.CreateTXG, step.To.CreateTXG, "from is older than to")
		require.NotNil(t, s.receiver, "an increment needs a target")
		at := slices.IndexFunc(s.receiver.Versions, func(v protocol.Version) bool { return v.GUID == step.From.GUID })
		require.GreaterOrEqual(t, at, 0, "the target has %s", *step.From)
		for _, lost := range s.receiver.Versions[at+1:] {
			require.True(t, s.job.Recv.ForceRollback, "%s can only be destroyed where rollback is allowed", lost)
			require.Zero(t, lost.UserRefs, "%s cannot be destroyed, since it is held", lost)
		}
		next.Versions = slices.Clone(s.receiver.Versions[:at+1])
		for _, version := range s.source.Versions {
			if version.IsSnapshot() && version.CreateTXG > step.From.CreateTXG && version.CreateTXG <= step.To.CreateTXG &&
				(step.Intermediates > 0 || version == step.To) {
				carried = append(carried, version)
			}
		}
		if step.Intermediates > 0 {
			require.True(t, step.From.IsSnapshot(), "a range begins at a snapshot")
		}
		require.Len(t, carried, step.Snapshots(), "%s carries as many snapshots as it says", step)
	}
	if step.Resume {
		require.NotNil(t, s.receiver, "nothing can be resumed on a target that has nothing")
		require.NotNil(t, s.receiver.Resume, "nothing can be resumed without a partial state")
		require.Zero(t, step.Intermediates, "a partial state is of one elementary send")
		var from uint64
		if step.From != nil {
			from = step.From.GUID
		}
		require.Equal(t, [2]uint64{from, step.To.GUID}, [2]uint64{s.receiver.Resume.FromGUID, s.receiver.Resume.ToGUID},
			"the partial state is of this very send")
	}
	for _, snapshot := range carried {
		require.True(t, s.wanted(snapshot), "%s is not wanted, and is sent by %s", snapshot, step)
		for _, existing := range next.Versions {
			require.NotEqual(t, existing.Name, snapshot.Name, "the target has a snapshot of this name")
		}
		snapshot.CreateTXG = uint64(1000 + len(next.Versions))
		next.Versions = append(next.Versions, snapshot)
	}
	s.receiver = &next
	return s
}

func has(versions []protocol.Version, version protocol.Version) bool {
	return slices.Contains(versions, version)
}

// TestStepsBringTheTargetUpToDate does every plan against a model of both sides: every step can be done when its turn
// comes, planning anew after any of them gives the rest, and in the end the target has what is wanted.
func TestStepsBringTheTargetUpToDate(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := drawSituation(t)
		result := s.plan()
		if result.Conflict != nil {
			require.Empty(t, result.Steps, "a conflict has no steps")
			require.False(t, result.Initial)
			require.NotEmpty(t, result.Conflict.Message)
			require.NotEmpty(t, result.Conflict.Remedy)
			return
		}
		for i, step := range result.Steps {
			require.NoError(t, step.Validate())
			require.Equal(t, i == 0 && result.Initial, step.Initial)
			require.True(t, i == 0 || !step.Resume, "only the first step can be resumed")
			s = s.receive(t, step)
			again := s.plan()
			require.Nil(t, again.Conflict, "after step %d", i)
			require.Equal(t, showAll(result.Steps[i+1:]), showAll(again.Steps), "what is planned after step %d", i)
		}
		requireUpToDate(t, s, result)
	})
}

func showAll(steps []protocol.Step) []string {
	texts := []string{}
	for _, step := range steps {
		texts = append(texts, showStep(step))
	}
	return texts
}

// requireUpToDate checks the state in which a plan without conflict ends.
func requireUpToDate(t *rapid.T, s situation, planned plan.Result) {
	var wanted []protocol.Version
	for _, version := range s.source.Versions {
		if s.wanted(version) {
			wanted = append(wanted, version)
		}
	}
	if len(wanted) == 0 {
		require.Empty(t, planned.Steps, "nothing is wanted")
		return
	}
	require.NotNil(t, s.receiver, "something is wanted, so the target has something")
	last := wanted[len(wanted)-1]
	received := map[uint64]bool{}
	var common uint64 // createtxg on the source
	for _, version := range s.receiver.Versions {
		received[version.GUID] = true
	}
	for _, version := range s.source.Versions {
		if received[version.GUID] {
			common = max(common, version.CreateTXG)
		}
	}
	require.GreaterOrEqual(t, common, last.CreateTXG, "the target has the newest wanted snapshot, or a newer version")
	if len(planned.Steps) == 0 {
		return
	}
	require.Equal(t, last.GUID, s.receiver.Versions[len(s.receiver.Versions)-1].GUID, "the newest on the target is the newest wanted")
	base := planned.Steps[0].To.CreateTXG
	for _, version := range wanted {
		if version.CreateTXG >= base || (planned.Initial && s.job.Replication.Initial == protocol.InitialAll) {
			require.True(t, received[version.GUID], "%s is wanted, and the target has not received it", version)
		}
	}
}

// TestInterruptedRange cuts a range after any of its snapshots, with the next one received in part: the new plan goes on
// from there, resumes, and sends nothing twice.
func TestInterruptedRange(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := drawSituation(t)
		result := s.plan()
		at := slices.IndexFunc(result.Steps, func(step protocol.Step) bool { return step.Intermediates > 0 })
		if at < 0 {
			return
		}
		for _, step := range result.Steps[:at] {
			s = s.receive(t, step)
		}
		whole := result.Steps[at]
		inside := slices.DeleteFunc(slices.Clone(s.source.Versions), func(v protocol.Version) bool {
			return !v.IsSnapshot() || v.CreateTXG <= whole.From.CreateTXG || v.CreateTXG > whole.To.CreateTXG
		})
		cut := rapid.IntRange(1, len(inside)-1).Draw(t, "snapshots received before the cut")
		part := whole
		part.To, part.Intermediates = inside[cut-1], cut-1
		s = s.receive(t, part)
		s.receiver.Resume = &protocol.ResumeState{FromGUID: part.To.GUID, ToGUID: inside[cut].GUID, Bytes: 1}
		again := s.plan()
		require.Nil(t, again.Conflict)
		require.True(t, again.Steps[0].Resume, "the part of %s is gone on with", inside[cut])
		sent := 0
		for _, step := range again.Steps {
			sent += step.Snapshots()
			s = s.receive(t, step)
		}
		planned := 0
		for _, step := range result.Steps[at:] {
			planned += step.Snapshots()
		}
		require.Equal(t, planned-cut, sent, "snapshots sent after the cut")
		requireUpToDate(t, s, again)
	})
}

// TestConflictOnlyWhereNeeded checks the other direction: where zfs recv would take an increment on top of the target's
// newest snapshot, there is no conflict.
func TestConflictOnlyWhereNeeded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := drawSituation(t)
		if s.receiver == nil || len(s.receiver.Versions) == 0 {
			return
		}
		last := s.receiver.Versions[len(s.receiver.Versions)-1]
		known := slices.ContainsFunc(s.source.Versions, func(v protocol.Version) bool { return v.GUID == last.GUID })
		names := map[string]bool{}
		for _, version := range s.receiver.Versions {
			names[version.Name] = true
		}
		clash := false
		for _, version := range s.source.Versions {
			clash = clash || (s.wanted(version) && version.GUID > last.GUID && names[version.Name])
		}
		result := s.plan()
		switch {
		case known && !clash:
			require.Nil(t, result.Conflict, "the source has the target's newest snapshot %s", last)
		case known:
			require.NotNil(t, result.Conflict, "a name is taken")
			require.Equal(t, plan.KindSnapshotNameTaken, result.Conflict.Kind)
		case !s.job.Recv.ForceRollback:
			require.NotNil(t, result.Conflict, "the source does not have the target's newest snapshot %s", last)
		}
	})
}

// TestOrderOfInputDoesNotMatter shuffles everything that comes in, and checks that nothing of it is changed.
func TestOrderOfInputDoesNotMatter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		first, err := plan.Plan(in)
		require.NoError(t, err)

		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		shuffled := in
		shuffled.Source, shuffled.Receiver = shuffle(random, in.Source), shuffle(random, in.Receiver)
		shuffled.Requested = slices.Clone(in.Requested)
		random.Shuffle(len(shuffled.Requested), reflect.Swapper(shuffled.Requested))
		before := fmt.Sprintf("%+v", shuffled)
		second, err := plan.Plan(shuffled)
		require.NoError(t, err)
		require.Equal(t, first, second)
		require.Equal(t, before, fmt.Sprintf("%+v", shuffled), "the input is as it was")
	})
}

func shuffle(random *rand.Rand, datasets []protocol.Dataset) []protocol.Dataset {
	datasets = slices.Clone(datasets)
	random.Shuffle(len(datasets), reflect.Swapper(datasets))
	for i := range datasets {
		datasets[i].Versions = slices.Clone(datasets[i].Versions)
		random.Shuffle(len(datasets[i].Versions), reflect.Swapper(datasets[i].Versions))
	}
	return datasets
}

// drawInput draws a tree of filesystems, some of which the target has.
func drawInput(t *rapid.T) plan.Input {
	in := plan.Input{Job: job()}
	paths := rapid.SliceOfNDistinct(rapid.StringMatching(`tank(/(a|b|a-b|a b)){0,3}`), 1, 8, rapid.ID).Draw(t, "paths")
	for _, path := range paths {
		s := drawSituation(t)
		in.Job = s.job
		s.source.Name = path
		if rapid.IntRange(0, 5).Draw(t, "gone") == 0 {
			in.Requested = append(in.Requested, path)
		} else {
			in.Source = append(in.Source, s.source)
		}
		if s.receiver != nil {
			s.receiver.Name = "backup/alpha/" + path
			in.Receiver = append(in.Receiver, *s.receiver)
		}
	}
	return in
}

// TestParentsComeFirst checks the order of results, and that whoever is created after an ancestor names it.
func TestParentsComeFirst(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		results, err := plan.Plan(in)
		require.NoError(t, err)
		require.Len(t, results, len(in.Source)+len(in.Requested), "one result for each filesystem")
		seen := map[string]plan.Result{}
		for _, result := range results {
			for name := range seen {
				require.False(t, strings.HasPrefix(name, result.Filesystem+"/"), "%s comes after its child %s", result.Filesystem, name)
			}
			nearest := ""
			for name, ancestor := range seen {
				if ancestor.Initial && strings.HasPrefix(result.Filesystem, name+"/") && len(name) > len(nearest) {
					nearest = name
				}
			}
			if !result.Initial {
				nearest = ""
			}
			require.Equal(t, nearest, result.Parent, "parent of %s", result.Filesystem)
			require.Equal(t, result.Initial, len(result.Steps) > 0 && result.Steps[0].Initial)
			seen[result.Filesystem] = result
		}
	})
}

// TestLessIsAnOrder checks that sorting by Less is well defined.
func TestLessIsAnOrder(t *testing.T) {
	t.Parallel()
	step := rapid.Custom(func(t *rapid.T) protocol.Step {
		return protocol.Step{
			Filesystem:       rapid.SampledFrom([]string{"tank", "tank/a", "tank/a-b", "tank/a/b"}).Draw(t, "filesystem"),
			TargetFilesystem: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "target"),
			To: protocol.Version{
				Name:     rapid.SampledFrom([]string{"1", "2"}).Draw(t, "name"),
				Creation: began.Add(time.Duration(rapid.IntRange(0, 2).Draw(t, "creation"))),
			},
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := step.Draw(t, "a"), step.Draw(t, "b"), step.Draw(t, "c")
		if plan.Less(a, b) {
			require.False(t, plan.Less(b, a))
			require.False(t, plan.Less(b, c) && !plan.Less(a, c), "not transitive")
		} else if !plan.Less(b, a) {
			require.Equal(t, a, b, "two steps are equal or in order")
		}
	})
}
