// Work items: what the coordinator asks of a host's workers.

package protocol

import (
	"fmt"
	"regexp"
	"time"
)

// Role is what a work item asks for. It is the last token of the item's subject.
type Role string

// The roles.
const (
	RoleSend Role = "send"
	RoleRecv Role = "recv"
)

// Roles are all roles.
func Roles() []Role { return []Role{RoleSend, RoleRecv} }

// PlanID names one run of one job. It is a subject token, and plans sort by the time they were requested.
type PlanID string

var planIDPattern = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

// Validate tells whether id can name a plan.
func (id PlanID) Validate() error {
	if !planIDPattern.MatchString(string(id)) {
		return Usagef("plan %q: plans are named like 20261123t015322-x7k2q", string(id))
	}
	return nil
}

// NewPlanID names a plan that is requested at the given time; entropy keeps plans of one second apart.
func NewPlanID(at time.Time, entropy string) PlanID {
	return PlanID(at.UTC().Format("20060102t150405") + "-" + entropy)
}

// StepRef points to one try of one step.
type StepRef struct {
	Plan PlanID `msgpack:"plan" json:"plan" yaml:"plan"`
	// Task is the number of the plan's task: one filesystem to one target.
	Task int `msgpack:"task" json:"task" yaml:"task"`
	// Step is the index of the step in its task. Replanning a task goes on counting.
	Step int `msgpack:"step" json:"step" yaml:"step"`
	// Attempt counts the task's tries over all its steps, from 1. A higher attempt supersedes all lower ones.
	Attempt int `msgpack:"attempt" json:"attempt" yaml:"attempt"`
}

// StepToken is the subject token that stands for the task and step.
func (r StepRef) StepToken() string { return fmt.Sprintf("%d-%d", r.Task, r.Step) }

// String is for logs.
func (r StepRef) String() string {
	return fmt.Sprintf("%s/%d-%d#%d", r.Plan, r.Task, r.Step, r.Attempt)
}

// Validate tells whether r can point to anything.
func (r StepRef) Validate() error {
	if err := r.Plan.Validate(); err != nil {
		return err
	}
	if r.Task < 0 || r.Step < 0 || r.Attempt < 1 {
		return Usagef("step reference %s is out of range", r)
	}
	return nil
}

// WorkItem asks the workers of one host to send or to receive one step.
type WorkItem struct {
	Ref        StepRef          `msgpack:"ref"`
	Role       Role             `msgpack:"role"`
	Job        string           `msgpack:"job"`
	JobID      JobID            `msgpack:"job_id"`
	Source     Host             `msgpack:"source"`
	Target     Host             `msgpack:"target"`
	TargetRoot string           `msgpack:"target_root"`
	Step       Step             `msgpack:"step"`
	Transport  Transport        `msgpack:"transport"`
	Protection ProtectionPolicy `msgpack:"protection"`
	Send       SendOptions      `msgpack:"send"`
	Recv       RecvOptions      `msgpack:"recv"`
	Deadlines  Deadlines        `msgpack:"deadlines"`
	Delivery   Delivery         `msgpack:"delivery"`
	// Offer is the receiver's, in a send item that is not of transport local.
	Offer *Offer `msgpack:"offer,omitempty"`
	// Others are further receivers of the same stream, in a send item.
	Others []Receiver `msgpack:"others,omitempty"`
}

// Receiver is what a send item that is for several says about each further one: what differs from the first.
type Receiver struct {
	Ref              StepRef `msgpack:"ref"`
	JobID            JobID   `msgpack:"job_id"`
	Target           Host    `msgpack:"target"`
	TargetRoot       string  `msgpack:"target_root"`
	TargetFilesystem string  `msgpack:"target_fs"`
	Offer            *Offer  `msgpack:"offer"`
}

// maxReceivers bounds the receivers of one stream.
const maxReceivers = 256

// For is the item as it would be for the given receiver alone.
func (w WorkItem) For(r Receiver) WorkItem {
	w.Ref, w.JobID, w.Target, w.TargetRoot, w.Offer, w.Others = r.Ref, r.JobID, r.Target, r.TargetRoot, r.Offer, nil
	w.Step.TargetFilesystem = r.TargetFilesystem
	return w
}

// Receiver is what For needs to make this item, less its others, again.
func (w WorkItem) Receiver() Receiver {
	return Receiver{
		Ref: w.Ref, JobID: w.JobID, Target: w.Target, TargetRoot: w.TargetRoot, TargetFilesystem: w.Step.TargetFilesystem,
		Offer: w.Offer,
	}
}

// Each is the item as it is for each of its receivers alone, the first one's first.
func (w WorkItem) Each() []WorkItem {
	alone := w
	alone.Others = nil
	each := []WorkItem{alone}
	for _, other := range w.Others {
		each = append(each, w.For(other))
	}
	return each
}

// Host is the host whose workers the item is for. A step of transport local is one item, for the sender's role: its
// worker does both sides.
func (w WorkItem) Host() Host {
	if w.Role == RoleRecv {
		return w.Target
	}
	return w.Source
}

// ProtectionOfStep is the protection that holds for this step.
func (w WorkItem) ProtectionOfStep() Protection {
	if w.Step.Initial {
		return w.Protection.Initial
	}
	return w.Protection.Incremental
}

// MessageID de-duplicates the item in its stream: the same try of the same step is published once, whoever leads.
func (w WorkItem) MessageID() string {
	return fmt.Sprintf("%s.%s.%d.%s", w.Ref.Plan, w.Ref.StepToken(), w.Ref.Attempt, w.Role)
}

// Validate tells whether a worker can act on the item.
func (w WorkItem) Validate() error {
	if err := w.Ref.Validate(); err != nil {
		return err
	}
	if w.Role != RoleSend && w.Role != RoleRecv {
		return Usagef("work item %s: unknown role %q", w.Ref, w.Role)
	}
	if w.Job == "" {
		return Usagef("work item %s: no job", w.Ref)
	}
	if err := w.JobID.Validate(); err != nil {
		return Usagef("work item %s: %w", w.Ref, err)
	}
	if err := w.Source.Validate(); err != nil {
		return Usagef("work item %s: source: %w", w.Ref, err)
	}
	if err := w.Target.Validate(); err != nil {
		return Usagef("work item %s: target: %w", w.Ref, err)
	}
	if err := w.Protection.Initial.Validate(); err != nil {
		return Usagef("work item %s: %w", w.Ref, err)
	}
	if err := w.Protection.Incremental.Validate(); err != nil {
		return Usagef("work item %s: %w", w.Ref, err)
	}
	if err := w.Step.Validate(); err != nil {
		return Usagef("work item %s: %w", w.Ref, err)
	}
	if w.TargetRoot == "" || w.Step.TargetFilesystem != w.TargetRoot+"/"+w.Step.Filesystem {
		return Usagef("work item %s: target filesystem %s is not <root>/<source path> of %s below %s",
			w.Ref, w.Step.TargetFilesystem, w.Step.Filesystem, w.TargetRoot)
	}
	deadlines := w.Deadlines
	if deadlines.Claim <= 0 || deadlines.Offer <= 0 || deadlines.Stall <= 0 || deadlines.Confirm <= 0 {
		return Usagef("work item %s: every deadline must be positive", w.Ref)
	}
	if err := w.Delivery.Compression.Validate(); err != nil {
		return Usagef("work item %s: %w", w.Ref, err)
	}
	if objects := w.Delivery.Objects; objects.Segment > MaxSegment || objects.Window > MaxWindow {
		return Usagef("work item %s: segments of %s in a window of %s are too large", w.Ref, objects.Segment, objects.Window)
	}
	if err := w.Send.BandwidthLimit.Validate(); err != nil {
		return Usagef("work item %s: send.bandwidth_limit: %w", w.Ref, err)
	}
	if err := w.Recv.BandwidthLimit.Validate(); err != nil {
		return Usagef("work item %s: recv.bandwidth_limit: %w", w.Ref, err)
	}
	if err := w.validateOthers(); err != nil {
		return err
	}
	switch w.Transport {
	case TransportAuto, TransportTCP, TransportObject:
		if w.Role == RoleSend {
			return w.Offer.validate(w.Ref)
		}
	case TransportLocal:
		if w.Role != RoleSend || w.Source != w.Target {
			return Usagef("work item %s: transport local is one send item for one host, not %s from %s to %s",
				w.Ref, w.Role, w.Source, w.Target)
		}
	default:
		return Usagef("work item %s: transport %q is not one that work items carry", w.Ref, w.Transport)
	}
	return nil
}

func (w WorkItem) validateOthers() error {
	switch {
	case len(w.Others) == 0:
		return nil
	case w.Role != RoleSend || w.Transport == TransportLocal:
		return Usagef("work item %s: only a send item to other hosts has several receivers", w.Ref)
	case len(w.Others) >= maxReceivers:
		return Usagef("work item %s: %d receivers are too many (at most %d)", w.Ref, len(w.Others)+1, maxReceivers)
	}
	seen := map[int]bool{w.Ref.Task: true}
	for _, other := range w.Others {
		if other.Ref.Plan != w.Ref.Plan || seen[other.Ref.Task] {
			return Usagef("work item %s: step %s cannot be one of its receivers'", w.Ref, other.Ref)
		}
		seen[other.Ref.Task] = true
		if err := w.For(other).Validate(); err != nil {
			return err
		}
	}
	return nil
}

// Offer is a receiver's answer to its work item: how the sender reaches it, and what it has already.
type Offer struct {
	// Addresses are host:port pairs, tried in order.
	Addresses []string `msgpack:"addresses,omitempty"`
	// TLS says that the connection is TLS 1.3; false is plain TCP.
	TLS bool `msgpack:"tls"`
	// Fingerprint is the SHA-256 of the receiver's certificate in DER form; nil without TLS.
	Fingerprint []byte `msgpack:"fingerprint,omitempty"`
	// Secret is good for one connection.
	Secret []byte `msgpack:"secret,omitempty"`
	// Subject is where the receiver takes the sender's Call, if there is no connection to the addresses; empty takes none.
	Subject string `msgpack:"subject,omitempty"`
	// Compressions are the algorithms that the receiver can undo.
	Compressions []Compression `msgpack:"compressions,omitempty"`
	// ResumeToken is that of the receiver's partial state, if it has one that encodes a send of this step.
	ResumeToken string `msgpack:"resume_token,omitempty"`
	// HasTo says that the receiver has To already, and protects it: there is nothing to send, and this offer is the
	// receiver's confirmation.
	HasTo bool `msgpack:"has_to,omitempty"`
}

func (o *Offer) validate(ref StepRef) error {
	switch {
	case o == nil:
		return Usagef("work item %s: a send item needs the receiver's offer", ref)
	case o.HasTo:
		return nil
	}
	return validateAddresses("work item "+ref.String(), o.Addresses, o.TLS, o.Fingerprint, o.Secret)
}
