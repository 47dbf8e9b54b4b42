// JSON lines: progress for programs.

package progress

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/protocol"
)

// Record is one line. Its form is documented in docs/zctl.md and stays as it is.
type Record struct {
	// Kind is plan (Plan and Waiting are set), task (Task is set) or result (Plan and Tasks are set).
	Kind    string               `json:"kind"`
	Plan    *protocol.Plan       `json:"plan,omitempty"`
	Waiting string               `json:"waiting,omitempty"`
	Task    *fleet.TaskProgress  `json:"task,omitempty"`
	Tasks   []fleet.TaskProgress `json:"tasks,omitempty"`
}

// The kinds of record.
const (
	RecordPlan   = "plan"
	RecordTask   = "task"
	RecordResult = "result"
)

// Records writes a record for whatever has changed: the plan or what it waits for, and each task; and a last one with all
// of the result.
type Records struct {
	write func(Record) error
	plan  []byte
	tasks map[int][]byte
}

var _ Display = (*Records)(nil)

// NewRecords makes a display that hands every record to write.
func NewRecords(write func(Record) error) *Records {
	return &Records{write: write, tasks: map[int][]byte{}}
}

// NewJSONLines makes a display that writes records as JSON, one a line.
func NewJSONLines(out io.Writer) *Records {
	encoder := json.NewEncoder(out)
	return NewRecords(func(record Record) error { return encoder.Encode(record) })
}

// Show writes what has changed.
func (r *Records) Show(shot fleet.Snapshot) error {
	plan := Record{Kind: RecordPlan, Plan: &shot.Plan, Waiting: shot.Waiting}
	changed, err := update(&r.plan, plan)
	if err != nil {
		return err
	}
	if changed && !shot.Final() {
		if err := r.write(plan); err != nil {
			return fmt.Errorf("show progress: %w", err)
		}
	}
	for i := range shot.Tasks {
		task := Record{Kind: RecordTask, Task: &shot.Tasks[i]}
		before := r.tasks[shot.Tasks[i].Number]
		changed, err := update(&before, task)
		if err != nil {
			return err
		}
		if !changed {
			continue
		}
		r.tasks[shot.Tasks[i].Number] = before
		if err := r.write(task); err != nil {
			return fmt.Errorf("show progress: %w", err)
		}
	}
	if !shot.Final() {
		return nil
	}
	if err := r.write(Record{Kind: RecordResult, Plan: &shot.Plan, Tasks: shot.Tasks}); err != nil {
		return fmt.Errorf("show progress: %w", err)
	}
	return nil
}

// Close does nothing: every record is out already.
func (r *Records) Close() error { return nil }

// update puts the record's text in place of the last one and tells whether it differs.
func update(last *[]byte, record Record) (bool, error) {
	text, err := json.Marshal(record)
	if err != nil {
		return false, fmt.Errorf("show progress: %w", err)
	}
	if bytes.Equal(text, *last) {
		return false, nil
	}
	*last = text
	return true, nil
}
