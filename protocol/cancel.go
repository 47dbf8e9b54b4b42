// Cancellation: telling the workers to stop what is under way for a plan.

package protocol

// CancelSubjects matches the notices of all plans' cancellations. They are plain messages, kept in no stream: a worker that
// misses one finds the plan's cancel key when it claims the next item of that plan.
const CancelSubjects = "zfleet.cancel.*"

// CancelSubject is where the cancellation of the plan is told.
func CancelSubject(id PlanID) string { return "zfleet.cancel." + EscapeToken(string(id)) }

// CancelNotice tells workers to stop the plan's steps.
type CancelNotice struct {
	Plan PlanID `msgpack:"plan" json:"plan"`
}

// Validate tells whether the notice names a plan.
func (n CancelNotice) Validate() error { return n.Plan.Validate() }
