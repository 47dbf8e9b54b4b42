// Job files: jobs as operators write them, in YAML.

package protocol

import (
	"bytes"
	"time"

	"github.com/goccy/go-yaml"
)

// DefaultJob is a job of which the operator has said nothing yet.
func DefaultJob() Job {
	return Job{
		Send: SendOptions{Compressed: true, LargeBlocks: true, EmbeddedData: true},
		Recv: RecvOptions{Placeholder: PlaceholderOptions{Encryption: PlaceholderUnspecified}},
		Replication: Replication{
			Protection: ProtectionPolicy{Initial: GuaranteeResumability, Incremental: GuaranteeResumability},
			Initial:    InitialMostRecent,
			Transport:  TransportAuto,
			Concurrency: Concurrency{
				Steps: 4,
			},
			Deadlines: Deadlines{
				Inventory: Duration(time.Minute),
				Claim:     Duration(10 * time.Minute),
				Offer:     Duration(time.Minute),
				Stall:     Duration(time.Minute),
				Confirm:   Duration(10 * time.Minute),
			},
			Attempts: 8,
		},
	}
}

// ParseJob reads one job from YAML: unknown fields are errors, what is not said has DefaultJob's value, and the result is
// valid. Errors show the place in the text.
func ParseJob(text []byte) (Job, error) {
	job := DefaultJob()
	decoder := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict())
	if err := decoder.Decode(&job); err != nil {
		return Job{}, Usagef("job file: %s", yaml.FormatError(err, false, true))
	}
	if err := job.Validate(); err != nil {
		return Job{}, err
	}
	return job, nil
}
