// A notation for the tests: version lists and plans as short texts.

package plan_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/coordinator/plan"
	"github.com/zfleet/zfleet/protocol"
)

// A version is written as its mark and name: "@a" is a snapshot, "#a" a bookmark. The letter stands for the guid, too:
// "@a" on one side and "@a" or "#a" on the other are the same version. "@name=a" has another name, and the guid of a.
// A "!" at the end is a hold. Letters are in the order of time: a, A, b, B, c … Capital letters are snapshots that jobs
// with the filter onlySmall do not want.
const onlySmall = "^[a-z]"

// began is when the first version of all tests was taken.
var began = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// letter gives the guid, the source's createtxg and the creation time that a letter stands for.
func letter(t testing.TB, text string) (guid, txg uint64, creation time.Time) {
	t.Helper()
	require.Len(t, text, 1, "a version's letter")
	small := strings.ToLower(text)[0]
	require.True(t, small >= 'a' && small <= 'z', "letter %q", text)
	index := uint64(small - 'a')
	guid, txg, creation = 1001+index, 100+10*index, began.Add(time.Duration(index)*time.Hour)
	if text[0] != small {
		guid, txg, creation = guid+1000, txg+5, creation.Add(30*time.Minute)
	}
	return guid, txg, creation
}

// versions reads a list of versions as a source has them.
func versions(t testing.TB, text string) []protocol.Version {
	t.Helper()
	var list []protocol.Version
	for _, word := range strings.Fields(text) {
		version := protocol.Version{Type: protocol.Snapshot}
		if word[0] == '#' {
			version.Type = protocol.Bookmark
		}
		name, held := strings.CutSuffix(word[1:], "!")
		if held {
			version.UserRefs = 1
		}
		name, guid, found := strings.Cut(name, "=")
		if !found {
			guid = name
		}
		version.Name = name
		version.GUID, version.CreateTXG, version.Creation = letter(t, guid)
		list = append(list, version)
	}
	return list
}

// received reads a list of versions as a target has them: in the order in which they are written, whatever their age.
func received(t testing.TB, text string) []protocol.Version {
	t.Helper()
	list := versions(t, text)
	for i := range list {
		list[i].CreateTXG = uint64(7 + 3*i)
	}
	return list
}

// source reads what a source has, written as for receiver.
func source(t testing.TB, name, text string) protocol.Dataset {
	t.Helper()
	dataset, list := dataset(t, name, text)
	dataset.Versions = versions(t, list)
	return dataset
}

// receiver reads what a target has: "-" is nothing, "empty" a dataset without versions, "placeholder" one with the mark,
// "volume" an empty volume, and else a list of versions.
func receiver(t testing.TB, name, text, partial string) *protocol.Dataset {
	t.Helper()
	if text == "-" {
		require.Empty(t, partial, "a partial state needs a dataset")
		return nil
	}
	dataset, list := dataset(t, name, text)
	dataset.Versions = received(t, list)
	dataset.Resume = resume(t, partial)
	return &dataset
}

// dataset reads all but the versions, which it gives back as they are written.
func dataset(t testing.TB, name, text string) (dataset protocol.Dataset, list string) {
	t.Helper()
	dataset = protocol.Dataset{Name: name, GUID: 9000}
	var words []string
	for word := range strings.FieldsSeq(text) {
		switch word {
		case "empty":
		case "placeholder":
			dataset.Placeholder = true
		case "volume":
			dataset.Volume = true
		default:
			require.Contains(t, "@#", word[:1], "word %q of %q", word, text)
			words = append(words, word)
		}
	}
	return dataset, strings.Join(words, " ")
}

// resume reads a partial state: "" is none, "a" of a full send, "a>b" of an increment, "?" one that cannot be read.
func resume(t testing.TB, text string) *protocol.ResumeState {
	t.Helper()
	switch text {
	case "":
		return nil
	case "?":
		return &protocol.ResumeState{Unreadable: "the token is of an unknown version"}
	}
	state := &protocol.ResumeState{Bytes: 4096}
	from, to, incremental := strings.Cut(text, ">")
	if incremental {
		state.FromGUID, _, _ = letter(t, from)
	} else {
		to = from
	}
	state.ToGUID, _, _ = letter(t, to)
	state.ToName = to
	return state
}

// job is a job with one target.
func job() protocol.Job {
	job := protocol.DefaultJob()
	job.Name = "prod"
	job.Source = protocol.JobSource{Host: "alpha", Filesystems: protocol.Filter{"tank<": true}}
	job.Targets = []protocol.JobTarget{{Host: "bravo", Root: "backup/alpha"}}
	return job
}

// show writes a result as a text: its steps, "conflict: <kind>", "note", or "nothing".
func show(result plan.Result) string {
	if result.Conflict != nil {
		return "conflict: " + string(result.Conflict.Kind)
	}
	parts := make([]string, 0, len(result.Steps)+1)
	for _, step := range result.Steps {
		parts = append(parts, showStep(step))
	}
	if len(parts) == 0 {
		parts = append(parts, "nothing")
	}
	if result.Note != "" {
		parts = append(parts, "note")
	}
	return strings.Join(parts, "; ")
}

func showStep(step protocol.Step) string {
	text := step.String()
	if step.Resume {
		text = "resume " + text
	}
	if step.Initial {
		text = "initial " + text
	}
	return text
}
