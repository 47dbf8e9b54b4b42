// Job files: jobs as operators write them, in YAML.

package protocol

import (
	"bytes"
	"errors"
	"io"
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
			Delivery: Delivery{
				Compression: CompressionNone,
				FanOut:      FanOut{Enabled: true, Wait: Duration(10 * time.Second), Lag: Duration(30 * time.Second)},
				Objects:     Objects{Segment: 8 << 20, Window: 64 << 20},
			},
			Concurrency: Concurrency{
				Steps: 4,
			},
			Deadlines: Deadlines{
				Inventory: Duration(time.Minute),
				Claim:     Duration(10 * time.Minute),
				Offer:     Duration(time.Minute),
				Stall:     Duration(time.Minute),
				Confirm:   Duration(10 * time.Minute),
				Absent:    Duration(24 * time.Hour),
			},
			Attempts: 8,
		},
	}
}

// ParseJob reads one job from YAML: unknown fields are errors, what is not said has DefaultJob's value, and the result is
// valid. Errors show the place in the text.
func ParseJob(text []byte) (Job, error) {
	if len(text) > MaxPayload {
		return Job{}, Usagef("job file: %d bytes are too many for a job (at most %d)", len(text), MaxPayload)
	}
	job := DefaultJob()
	decoder := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict())
	err := decoder.Decode(&job)
	switch {
	case errors.Is(err, io.EOF):
		return Job{}, Usagef("job file: there is no job in it")
	case err != nil:
		return Job{}, Usagef("job file: %s", yaml.FormatError(err, false, true))
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return Job{}, Usagef("job file: there is more than one document in it (%q): put each job into a file of its own", "---")
	}
	if err := job.Validate(); err != nil {
		return Job{}, err
	}
	return job, nil
}
