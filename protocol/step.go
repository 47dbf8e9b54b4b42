// Steps: one send into one receive.

package protocol

import "fmt"

// Step is one zfs send into one zfs recv: full To, or From → To with the snapshots between them.
type Step struct {
	// Filesystem is the filesystem or volume on the source.
	Filesystem string `msgpack:"fs" json:"filesystem" yaml:"filesystem"`
	// TargetFilesystem is where it lands on the target.
	TargetFilesystem string `msgpack:"target_fs" json:"target_filesystem" yaml:"target_filesystem"`
	// Volume says that it is a volume and no filesystem.
	Volume bool `msgpack:"volume,omitempty" json:"volume,omitempty" yaml:"volume,omitempty"`
	// From is the version that both sides have; nil is a full send.
	From *Version `msgpack:"from,omitempty" json:"from,omitempty" yaml:"from,omitempty"`
	// To is the snapshot that the receiver has afterwards.
	To Version `msgpack:"to" json:"to" yaml:"to"`
	// Intermediates is the number of snapshots between From and To that the step carries too (zfs send -I). It is zero
	// where From is a bookmark, since OpenZFS sends no ranges from bookmarks (zfs-send(8)).
	Intermediates int `msgpack:"intermediates,omitempty" json:"intermediates,omitempty" yaml:"intermediates,omitempty"`
	// Resume says that the receiver has a partial state of exactly this step.
	Resume bool `msgpack:"resume,omitempty" json:"resume,omitempty" yaml:"resume,omitempty"`
	// ResumeToken is that of the partial state when the step was planned, for estimating what is left. What is sent goes by
	// the receiver's offer.
	ResumeToken string `msgpack:"token,omitempty" json:"-" yaml:"-"`
	// Initial says that the target had nothing of the filesystem when the step was planned.
	Initial bool `msgpack:"initial,omitempty" json:"initial,omitempty" yaml:"initial,omitempty"`
	// Estimate is the expected size of the stream in bytes; 0 where it is not known.
	Estimate uint64 `msgpack:"estimate,omitempty" json:"estimate,omitempty" yaml:"estimate,omitempty"`
}

// Snapshots is the number of snapshots that the step creates on the receiver.
func (s Step) Snapshots() int { return s.Intermediates + 1 }

// Validate tells whether the step makes sense by itself.
func (s Step) Validate() error {
	if s.Filesystem == "" || s.TargetFilesystem == "" {
		return Usagef("step: filesystem %q, target filesystem %q: both are needed", s.Filesystem, s.TargetFilesystem)
	}
	if err := s.To.Validate(); err != nil {
		return Usagef("step of %s: to: %w", s.Filesystem, err)
	}
	if !s.To.IsSnapshot() {
		return Usagef("step of %s: to is %s: only snapshots can be sent", s.Filesystem, s.To)
	}
	if s.Intermediates < 0 {
		return Usagef("step of %s: %d intermediate snapshots", s.Filesystem, s.Intermediates)
	}
	if s.From == nil {
		if s.Intermediates != 0 {
			return Usagef("step of %s: a full send carries no intermediate snapshots", s.Filesystem)
		}
		return nil
	}
	if err := s.From.Validate(); err != nil {
		return Usagef("step of %s: from: %w", s.Filesystem, err)
	}
	if s.From.GUID == s.To.GUID {
		return Usagef("step of %s: from and to are both %s", s.Filesystem, s.To)
	}
	if s.Intermediates > 0 && !s.From.IsSnapshot() {
		return Usagef("step of %s: a range of snapshots cannot begin at bookmark %s", s.Filesystem, s.From)
	}
	return nil
}

// String is for people: "@a → @b (+3)", "full @b".
func (s Step) String() string {
	if s.From == nil {
		return "full " + s.To.Rel()
	}
	if s.Intermediates > 0 {
		return fmt.Sprintf("%s → %s (+%d)", s.From.Rel(), s.To.Rel(), s.Intermediates)
	}
	return s.From.Rel() + " → " + s.To.Rel()
}
