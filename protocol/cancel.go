// Cancellation: telling the workers to stop what is under way for a plan.

package protocol

// CancelSubjects matches the notices of all plans. They are plain messages, kept in no stream: a worker that misses one
// finds the plan's cancel key when it claims the next item of that plan, and notices by itself when its peer is gone.
const CancelSubjects = "zfleet.cancel.*"

// CancelSubject is where notices about the plan are told.
func CancelSubject(id PlanID) string { return "zfleet.cancel." + EscapeToken(string(id)) }

// CancelNotice tells workers to stop steps of a plan.
type CancelNotice struct {
	Plan PlanID `msgpack:"plan" json:"plan"`
	// Try stops only this and earlier tries of one task, because the coordinator has given the try up; nil stops everything,
	// because the plan was cancelled.
	Try *StepRef `msgpack:"try,omitempty" json:"try,omitempty"`
}

// Validate tells whether the notice makes sense.
func (n CancelNotice) Validate() error {
	if err := n.Plan.Validate(); err != nil {
		return err
	}
	if n.Try == nil {
		return nil
	}
	if n.Try.Plan != n.Plan {
		return Usagef("cancel notice: try %s is not of plan %s", n.Try, n.Plan)
	}
	return n.Try.Validate()
}
