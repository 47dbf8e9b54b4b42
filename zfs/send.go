// Sending: what is to be sent is compared with the pool first, and only what has been approved can be sent.

package zfs

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// VersionRef names a version and the guid that it must have.
type VersionRef struct {
	Type VersionType
	Name string
	GUID uint64
}

// String is the relative name with the guid.
func (r VersionRef) String() string {
	return fmt.Sprintf("%s%s (guid %d)", r.Type.separator(), r.Name, r.GUID)
}

// SendFlags are the options of zfs send, see zfs-send(8).
type SendFlags struct {
	Raw              bool // -w: encrypted datasets are sent as they are on disk
	Properties       bool // -p
	BackupProperties bool // -b: received properties as they were received
	Compressed       bool // -c
	LargeBlocks      bool // -L
	EmbeddedData     bool // -e
	Saved            bool // -S: the partially received state of the dataset, as it was sent to it (-L, -c and -e do not apply)
}

// SendArgs ask for a send of one dataset.
type SendArgs struct {
	Dataset string

	// From is the incremental source, a snapshot or bookmark of the dataset; nil sends To in full.
	From *VersionRef

	// To is the snapshot to send. With Flags.Saved it is the one that the partially received state belongs to, and only
	// its guid matters.
	To VersionRef

	// Intermediate sends all snapshots between From and To as well (-I), From being a snapshot.
	Intermediate bool

	Flags SendFlags

	// Encrypted says what the dataset must be: nil does not care; true: natively encrypted, and sent raw; false: sent in
	// the clear, so either unencrypted or with its key loaded.
	Encrypted *bool

	// ResumeToken continues an interrupted receive of this very send.
	ResumeToken string

	// EstimateFromBookmark has zfs send estimate its size, and report its progress, also where From is a bookmark. For a
	// bookmark that was made while its pool lacked the feature bookmark_written, zfs send walks through the metadata of the
	// whole increment first (zfs_ioc_send_space), and the stream begins only after that.
	EstimateFromBookmark bool
}

// reports tells whether zfs send is asked for its estimate and its progress.
func (a SendArgs) reports() bool {
	return !a.Flags.Saved && (a.From == nil || a.From.Type != Bookmark || a.EstimateFromBookmark)
}

// SendProblem is the kind of what is wrong with SendArgs.
type SendProblem string

// What can be wrong with SendArgs.
const (
	// SendUsage: the arguments contradict each other, or OpenZFS cannot do it.
	SendUsage SendProblem = "usage"

	// SendVersionMissing: there is no version of that type and name.
	SendVersionMissing SendProblem = "version missing"

	// SendVersionReplaced: there is one, but it has another guid.
	SendVersionReplaced SendProblem = "version replaced"

	// SendOrder: From is not older than To.
	SendOrder SendProblem = "order"

	// SendEncryption: the dataset is not encrypted as it must be, or its key is not loaded.
	SendEncryption SendProblem = "encryption"

	// SendToken: the resume token is of another send.
	SendToken SendProblem = "resume token"
)

// SendArgsError says what does not fit between SendArgs and the pool.
type SendArgsError struct {
	Dataset string
	Problem SendProblem
	Reason  string
}

// Error names the dataset and the reason.
func (e *SendArgsError) Error() string { return fmt.Sprintf("cannot send %s: %s", e.Dataset, e.Reason) }

// ValidSend is a send that has been compared with the pool. Only validation makes one that can be used.
type ValidSend struct {
	args SendArgs
	argv []string // what follows "zfs send"
}

// Args are the arguments that were validated.
func (v ValidSend) Args() SendArgs { return v.args }

// ValidateSend compares args with the dataset as it was listed (with its versions), with the decoded resume token and with
// what the host can do. The token is that of args.ResumeToken, or, for Flags.Saved, the dataset's own; nil where neither
// applies. The error is a [*SendArgsError].
func ValidateSend(args SendArgs, dataset Dataset, token *ResumeToken, features Features) (ValidSend, error) {
	check := sendCheck{args: args, dataset: dataset, token: token, features: features}
	for _, step := range []func() *SendArgsError{check.usage, check.versions, check.encryption, check.resumption} {
		if err := step(); err != nil {
			return ValidSend{}, err
		}
	}
	return ValidSend{args: args, argv: sendOptions(args)}, nil
}

// ValidateSend lists the dataset, decodes the resume token, and validates args against both.
func (s *System) ValidateSend(ctx context.Context, args SendArgs) (ValidSend, error) {
	features, err := s.Features(ctx)
	if err != nil {
		return ValidSend{}, err
	}
	dataset, err := s.Get(ctx, args.Dataset)
	if err != nil {
		return ValidSend{}, fmt.Errorf("validate the send of %s: %w", args.Dataset, err)
	}
	encoded := args.ResumeToken
	if args.Flags.Saved {
		encoded = dataset.ReceiveResumeToken
	}
	var token *ResumeToken
	if encoded != "" {
		decoded, err := s.DecodeResumeToken(ctx, encoded)
		if err != nil {
			return ValidSend{}, fmt.Errorf("validate the send of %s: %w", args.Dataset, err)
		}
		token = &decoded
	}
	return ValidateSend(args, dataset, token, features)
}

// EstimateSend asks how many bytes the send will be, with a dry run; 0 if OpenZFS does not know. It is an estimate:
// compression and what changes until then make it differ. A send that is run tells as much in [SendStream.Progress].
func (s *System) EstimateSend(ctx context.Context, send ValidSend) (uint64, error) {
	if send.argv == nil {
		return 0, errNotValidated
	}
	output, err := s.output(ctx, append([]string{"zfs", "send", "-nP"}, send.argv...)...)
	if err != nil {
		return 0, fmt.Errorf("estimate the size of the send of %s: %w", send.args.Dataset, err)
	}
	return parseEstimate(output)
}

// Send starts zfs send. The caller must Close the stream. The context's end kills the command, as Close does.
//
// zfs send is asked for its own estimate and progress (-v -P, zfs-send(8)), which [SendStream.Progress] answers. For full
// sends, resumed ones and increments from snapshots OpenZFS computes the estimate from what the datasets have counted
// already, one request for each snapshot of a range, and the reports are a request once a second: no difference can be
// measured for a small increment. Where it would not be so cheap, with a bookmark as From, it is left out unless
// SendArgs.EstimateFromBookmark is set; it also is with Flags.Saved.
func (s *System) Send(ctx context.Context, send ValidSend) (*SendStream, error) {
	if send.argv == nil {
		return nil, errNotValidated
	}
	argv := []string{"zfs", "send"}
	if send.args.reports() {
		argv = append(argv, "-vP")
	}
	return startSend(ctx, s.runner, append(argv, send.argv...))
}

var errNotValidated = &SendArgsError{Dataset: "(none)", Problem: SendUsage, Reason: "the send was not made by ValidateSend"}

// sendOptions is the command line after "zfs send". A token stands for all other options: it encodes the dataset, the
// versions and the flags, and zfs send refuses most of them beside it.
func sendOptions(args SendArgs) []string {
	if args.ResumeToken != "" {
		return []string{"-t", args.ResumeToken}
	}
	if args.Flags.Saved {
		return []string{"-S", args.Dataset}
	}
	var options []string
	for _, option := range []struct {
		flag string
		set  bool
	}{
		{"-w", args.Flags.Raw},
		{"-p", args.Flags.Properties},
		{"-b", args.Flags.BackupProperties},
		{"-L", args.Flags.LargeBlocks},
		{"-c", args.Flags.Compressed},
		{"-e", args.Flags.EmbeddedData},
	} {
		if option.set {
			options = append(options, option.flag)
		}
	}
	if args.From != nil {
		increment := "-i"
		if args.Intermediate {
			increment = "-I"
		}
		options = append(options, increment, args.Dataset+args.From.Type.separator()+args.From.Name)
	}
	return append(options, args.Dataset+args.To.Type.separator()+args.To.Name)
}

// sendCheck is one validation.
type sendCheck struct {
	args     SendArgs
	dataset  Dataset
	token    *ResumeToken
	features Features
}

func (c *sendCheck) problem(problem SendProblem, format string, args ...any) *SendArgsError {
	return &SendArgsError{Dataset: c.args.Dataset, Problem: problem, Reason: fmt.Sprintf(format, args...)}
}

// usage checks what needs no look at the pool.
func (c *sendCheck) usage() *SendArgsError {
	args := c.args
	if err := ValidateDataset(args.Dataset); err != nil {
		return c.problem(SendUsage, "%v", err)
	}
	switch {
	case c.dataset.Name != args.Dataset:
		return c.problem(SendUsage, "it was compared with the dataset %q", c.dataset.Name)
	case args.To.Type != Snapshot:
		return c.problem(SendUsage, "only snapshots can be sent, and the version to send is a %s", args.To.Type)
	case args.Intermediate && args.From == nil:
		return c.problem(SendUsage, "to send intermediate snapshots it must be known from which one on")
	case args.Intermediate && args.From.Type != Snapshot:
		return c.problem(SendUsage, "intermediate snapshots can only be sent from a snapshot on, not from %s", args.From)
	case args.From != nil && args.From.Type != Snapshot && args.From.Type != Bookmark:
		return c.problem(SendUsage, "%q is no type of version", args.From.Type)
	case args.Flags.Raw && !c.features.Encryption:
		return c.problem(SendUsage, "OpenZFS %s of this host has no raw sends (0.8 has)", c.features.Version)
	case args.ResumeToken != "" && !c.features.ResumableRecv:
		return c.problem(SendUsage, "OpenZFS %s of this host has no resume tokens (0.7 has)", c.features.Version)
	case !args.Flags.Saved && args.Flags.LargeBlocks && !c.features.LargeBlocks:
		return c.problem(SendUsage, "OpenZFS %s of this host cannot send large blocks (0.7 can)", c.features.Version)
	case !args.Flags.Saved && args.Flags.Compressed && !c.features.CompressedSend:
		return c.problem(SendUsage, "OpenZFS %s of this host has no compressed sends (0.7 has)", c.features.Version)
	case args.Flags.BackupProperties && !c.features.BackupProperties:
		return c.problem(SendUsage, "OpenZFS %s of this host cannot send received properties (0.8 can)", c.features.Version)
	case args.ResumeToken != "" && !validToken(args.ResumeToken):
		return c.problem(SendToken, "the resume token is malformed")
	case args.ResumeToken != "" && (c.token == nil || c.token.Raw != args.ResumeToken):
		return c.problem(SendUsage, "the resume token was not decoded")
	}
	if !args.Flags.Saved {
		return nil
	}
	switch {
	case !c.features.SavedSend:
		return c.problem(SendUsage, "OpenZFS %s of this host cannot send saved state (2.0 can)", c.features.Version)
	case args.From != nil, args.ResumeToken != "", args.Flags.Properties, args.Flags.BackupProperties:
		return c.problem(SendUsage, "saved state is sent without an incremental source, properties or a resume token")
	case c.dataset.ReceiveResumeToken == "":
		return c.problem(SendVersionMissing, "it holds no partially received state")
	case c.token == nil || c.token.Raw != c.dataset.ReceiveResumeToken:
		return c.problem(SendUsage, "its resume token was not decoded")
	case c.token.ToGUID != args.To.GUID:
		return c.problem(SendVersionReplaced, "its partially received state is of a snapshot with the guid %d, not of %s",
			c.token.ToGUID, args.To)
	case c.token.RawOK != args.Flags.Raw:
		return c.problem(SendEncryption, "its partially received state is raw or not, and the send is the other")
	}
	return nil
}

// versions resolves the names to the guids that were asked for.
func (c *sendCheck) versions() *SendArgsError {
	if c.args.Flags.Saved {
		return nil
	}
	to, err := c.resolve(c.args.To)
	if err != nil || c.args.From == nil {
		return err
	}
	from, err := c.resolve(*c.args.From)
	if err != nil {
		return err
	}
	// A bookmark has its snapshot's createtxg, so that this refuses a version's increment to itself as well.
	if from.CreateTXG >= to.CreateTXG {
		return c.problem(SendOrder, "%s is not older than %s", c.args.From, c.args.To)
	}
	return nil
}

func (c *sendCheck) resolve(ref VersionRef) (Version, *SendArgsError) {
	version, ok := c.dataset.Version(ref.Type, ref.Name)
	if !ok {
		return Version{}, c.problem(SendVersionMissing, "there is no %s %s", ref.Type, ref)
	}
	if version.GUID != ref.GUID {
		return Version{}, c.problem(SendVersionReplaced, "%s is another %s now, with the guid %d", ref, ref.Type, version.GUID)
	}
	return version, nil
}

func (c *sendCheck) encryption() *SendArgsError {
	encrypted, raw := c.dataset.Encrypted(), c.args.Flags.Raw
	if want := c.args.Encrypted; want != nil {
		switch {
		case *want && !encrypted:
			return c.problem(SendEncryption, "it is not encrypted, and the job sends only encrypted datasets")
		case *want && !raw:
			return c.problem(SendEncryption, "to stay encrypted it must be sent raw")
		case !*want && raw:
			return c.problem(SendEncryption, "the job sends in the clear, which excludes raw sends")
		}
	}
	switch {
	case !encrypted || raw:
		return nil
	case c.dataset.KeyStatus != "available":
		return c.problem(SendEncryption,
			"it is encrypted and its key is not loaded: load it with zfs load-key %s, or send raw", c.dataset.EncryptionRoot)
	case c.args.Flags.Properties:
		return c.problem(SendEncryption, "it is encrypted, and OpenZFS sends properties of encrypted datasets only raw")
	}
	return nil
}

func (c *sendCheck) resumption() *SendArgsError {
	if c.args.ResumeToken == "" {
		return nil
	}
	if err := c.token.Matches(c.args); err != nil {
		return c.problem(SendToken, "%v", err)
	}
	if c.args.Flags.Raw && c.dataset.Encrypted() && !c.token.RawOK {
		return c.problem(SendToken, "the resume token is of a send in the clear, and this one is raw")
	}
	return nil
}

// parseEstimate reads the total from what zfs send -nP prints: lines of which the last is "size TAB bytes".
func parseEstimate(output string) (uint64, error) {
	const command = "zfs send -nP"
	lines := slices.Collect(strings.Lines(output))
	if len(lines) == 0 {
		return 0, outputError(command, "", "there is none")
	}
	last := strings.TrimSuffix(lines[len(lines)-1], "\n")
	total := parseSendLine(last)
	if total.kind != sendLineTotal {
		return 0, outputError(command, last, "the last line is not the size")
	}
	return total.bytes, nil
}
