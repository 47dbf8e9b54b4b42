// Resume tokens: what an interrupted zfs recv -s leaves behind, and what zfs send -t continues from.

package zfs

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// ResumeToken is a decoded receive_resume_token.
type ResumeToken struct {
	// Raw is the token itself.
	Raw string

	// Object and Offset are where the receive stopped; Bytes are how many had been received by then.
	Object, Offset, Bytes uint64

	// ToGUID and ToName (the full name at the sender) are of the snapshot that was being received, FromGUID of its
	// incremental source; HasFromGUID is false for a full send.
	ToGUID, FromGUID uint64
	HasFromGUID      bool
	ToName           string

	// The flags of the stream. LargeBlockOK, EmbedOK and RawOK are set only where the dataset had such data: OpenZFS records
	// what the stream used, not what was allowed.
	LargeBlockOK, EmbedOK, CompressOK, RawOK, SavedOK bool

	// Redacted is true for a redacted send, which this package never makes.
	Redacted bool
}

// ErrResumeTokenCorrupt is matched by the errors of tokens that OpenZFS cannot decode.
var ErrResumeTokenCorrupt = errors.New("the resume token is corrupt")

// tokenForm is "version-checksum-size-content" in hexadecimal digits (libzfs_sendrecv.c,
// zfs_send_resume_token_to_nvlist).
var tokenForm = regexp.MustCompile(`^[0-9]+-[0-9a-f]+-[0-9a-f]+-[0-9a-f]+$`)

// maxToken is longer than any token: the property's value is at most ZAP_MAXVALUELEN.
const maxToken = 8 << 10

// validToken keeps what is no token off the command line.
func validToken(token string) bool { return len(token) <= maxToken && tokenForm.MatchString(token) }

// DecodeResumeToken decodes a token with zfs send -nvt, which prints the content also on hosts that do not have the
// dataset (and then fails).
func (s *System) DecodeResumeToken(ctx context.Context, token string) (ResumeToken, error) {
	if !validToken(token) {
		return ResumeToken{}, fmt.Errorf("decode the resume token: it is malformed: %w", ErrResumeTokenCorrupt)
	}
	output, err := s.output(ctx, "zfs", "send", "-nvt", token)
	var failed *CommandError
	if err != nil && !errors.As(err, &failed) {
		return ResumeToken{}, fmt.Errorf("decode the resume token: %w", err)
	}
	// Where the command failed and printed a whole token before, the token is good and the dataset is not here.
	decoded, parseErr := ParseResumeTokenOutput(output)
	if parseErr != nil {
		if failed == nil {
			return ResumeToken{}, fmt.Errorf("decode the resume token: %w", parseErr)
		}
		if output == "" && strings.Contains(failed.Stderr, "resume token") {
			return ResumeToken{}, fmt.Errorf("decode the resume token: %w: %w", ErrResumeTokenCorrupt, failed)
		}
		return ResumeToken{}, fmt.Errorf("decode the resume token: %w", failed)
	}
	decoded.Raw = token
	return decoded, nil
}

// ParseResumeTokenOutput reads what zfs send -nvt prints: a heading, the version of the nvlist, and one line for each of
// its entries. What follows (the estimate) is ignored. It is strict: an entry that is missing, repeated, unknown or
// malformed is an error, because what is resumed must be known in full.
func ParseResumeTokenOutput(output string) (ResumeToken, error) {
	const command = "zfs send -nvt"
	rest, ok := strings.CutPrefix(output, "resume token contents:\nnvlist version: 0\n")
	if !ok {
		line, _, _ := strings.Cut(output, "\n")
		return ResumeToken{}, outputError(command, line, "it does not begin with the contents of a resume token")
	}
	var token ResumeToken
	seen := map[string]bool{}
	for line := range strings.Lines(rest) {
		line = strings.TrimSuffix(line, "\n")
		entry, indented := strings.CutPrefix(line, "\t")
		if !indented {
			break
		}
		name, value, ok := strings.Cut(entry, " = ")
		if !ok {
			// A boolean entry has no value in the nvlist, and is printed with or without one.
			name, value = strings.TrimSpace(entry), ""
		}
		if seen[name] {
			return ResumeToken{}, outputError(command, line, "the entry is repeated")
		}
		seen[name] = true
		if reason := token.set(name, value); reason != "" {
			return ResumeToken{}, outputError(command, line, "%s", reason)
		}
	}
	for _, name := range []string{"object", "offset", "bytes", "toguid", "toname"} {
		if !seen[name] {
			return ResumeToken{}, outputError(command, "", "there is no entry %q", name)
		}
	}
	return token, nil
}

// set takes over one entry, or says what is wrong with it.
func (t *ResumeToken) set(name, value string) (problem string) {
	numbers := map[string]*uint64{
		"object": &t.Object, "offset": &t.Offset, "bytes": &t.Bytes, "toguid": &t.ToGUID, "fromguid": &t.FromGUID,
	}
	flags := map[string]*bool{
		"largeblockok": &t.LargeBlockOK, "embedok": &t.EmbedOK, "compressok": &t.CompressOK, "rawok": &t.RawOK, "savedok": &t.SavedOK,
	}
	if number := numbers[name]; number != nil {
		parsed, err := strconv.ParseUint(value, 0, 64)
		if err != nil {
			return "it is not a number"
		}
		*number = parsed
		t.HasFromGUID = t.HasFromGUID || name == "fromguid"
		return ""
	}
	if flag := flags[name]; flag != nil {
		if value != "" && value != "1" {
			return "it is not a flag"
		}
		*flag = true
		return ""
	}
	switch name {
	case "toname":
		if err := ValidateSnapshot(value); err != nil {
			return err.Error()
		}
		t.ToName = value
	case "redact_snaps", "book_redact_snaps":
		t.Redacted = true
	default:
		return "the entry is unknown"
	}
	return ""
}

// Matches compares the send that the token continues with the one that args would make without it: nil, or an error with
// the reason why they differ.
//
// An interrupted zfs send -I leaves the token of the one snapshot that was being received. It matches the send of that
// snapshot from the one before it, not that of the whole range.
func (t ResumeToken) Matches(args SendArgs) error {
	dataset, _, _, err := SplitVersion(t.ToName)
	raw := args.Flags.Raw
	switch {
	case err != nil:
		return fmt.Errorf("the resume token is of no snapshot: %w", err)
	case t.Redacted:
		return errors.New("the resume token is of a redacted send")
	case dataset != args.Dataset:
		return fmt.Errorf("the resume token is of the dataset %q", dataset)
	case t.ToGUID != args.To.GUID:
		return fmt.Errorf("the resume token is of the snapshot %s (guid %d), not of %s", t.ToName, t.ToGUID, args.To)
	case args.From == nil && t.HasFromGUID:
		return fmt.Errorf("the resume token is of an incremental send from guid %d, not of a full one", t.FromGUID)
	case args.From != nil && !t.HasFromGUID:
		return fmt.Errorf("the resume token is of a full send, not of an incremental one from %s", args.From)
	case args.From != nil && t.FromGUID != args.From.GUID:
		return fmt.Errorf("the resume token is of an incremental send from guid %d, not from %s", t.FromGUID, args.From)
	case t.RawOK && !raw:
		return errors.New("the resume token is of a raw send, and this one is not")
	case args.Encrypted != nil && *args.Encrypted && !t.RawOK:
		return errors.New("the resume token is of a send in the clear, and this one must be encrypted")
	case t.CompressOK != (args.Flags.Compressed || raw):
		return differs("compressed", t.CompressOK)
	case t.LargeBlockOK && !args.Flags.LargeBlocks && !raw:
		return differs("large-block", true)
	case t.EmbedOK && !args.Flags.EmbeddedData && !raw:
		return differs("embedded-data", true)
	case t.SavedOK != args.Flags.Saved:
		return differs("saved-state", t.SavedOK)
	}
	return nil
}

func differs(kind string, tokenHas bool) error {
	if tokenHas {
		return fmt.Errorf("the resume token is of a %s send, and this one is not", kind)
	}
	return fmt.Errorf("this is a %s send, and the resume token is not of one", kind)
}
