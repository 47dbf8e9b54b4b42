// Protection: what replication keeps on disk so that it can go on.

package protocol

// Protection says what a step leaves on disk while it runs and when it is done.
type Protection string

// The protections, from strongest to weakest.
const (
	// GuaranteeResumability puts step holds on both ends of a running step: an interrupted step can always be resumed.
	GuaranteeResumability Protection = "guarantee_resumability"
	// GuaranteeIncremental keeps tentative cursors (bookmarks) instead: the next incremental step is always possible, an
	// interrupted one may have to start over when a pruner took its snapshots.
	GuaranteeIncremental Protection = "guarantee_incremental"
	// GuaranteeNothing keeps nothing.
	GuaranteeNothing Protection = "guarantee_nothing"
)

// Validate tells whether p is one of the protections.
func (p Protection) Validate() error {
	switch p {
	case GuaranteeResumability, GuaranteeIncremental, GuaranteeNothing:
		return nil
	}
	return Usagef("protection %q: use %s, %s or %s", p, GuaranteeResumability, GuaranteeIncremental, GuaranteeNothing)
}

// ProtectionPolicy is a job's protection for the first and for every later step of a filesystem.
type ProtectionPolicy struct {
	Initial     Protection `msgpack:"initial" json:"initial" yaml:"initial"`
	Incremental Protection `msgpack:"incremental" json:"incremental" yaml:"incremental"`
}
