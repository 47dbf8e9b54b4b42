// Names in the object store: each says which stream, and which step, its bytes are of.

package protocol

import (
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// StreamName names a stream in the object store: "<plan>/<task>-<step>#<attempt>/<id>". An object of that name stands for
// the stream itself as long as there is anything of it.
type StreamName struct {
	// Ref is the sender's step; for a stream to several receivers, that of the first.
	Ref StepRef
	// ID tells streams of one step apart: 8 to 32 lower-case letters and digits.
	ID string
}

// SegmentName names a segment: "<stream>/<number>".
type SegmentName struct {
	Stream StreamName
	// Number counts from 0.
	Number uint64
}

// ChunksName names the chunks of the object that holds a segment: what the object store calls a NUID. It is the escaped
// "<segment>/<try>", so that chunks whose object was never completed tell whose they are.
type ChunksName struct {
	Segment SegmentName
	// Try counts from 0: a segment that could not be stored completely is stored again under another name.
	Try uint64
}

var streamIDPattern = regexp.MustCompile(`^[a-z0-9]{8,32}$`)

// String is the object's name.
func (n StreamName) String() string { return n.Ref.String() + "/" + n.ID }

// String is the object's name.
func (n SegmentName) String() string {
	return n.Stream.String() + "/" + strconv.FormatUint(n.Number, 10)
}

// String is the subject token.
func (n ChunksName) String() string {
	return EscapeToken(n.Segment.String() + "/" + strconv.FormatUint(n.Try, 10))
}

// ParseStepRef reads what StepRef.String writes, and nothing else.
func ParseStepRef(s string) (StepRef, error) {
	plan, rest, _ := strings.Cut(s, "/")
	step, attempt, _ := strings.Cut(rest, "#")
	task, step, _ := strings.Cut(step, "-")
	ref := StepRef{Plan: PlanID(plan)}
	var errs [3]error
	ref.Task, errs[0] = strconv.Atoi(task)
	ref.Step, errs[1] = strconv.Atoi(step)
	ref.Attempt, errs[2] = strconv.Atoi(attempt)
	if err := errors.Join(errs[:]...); err != nil {
		return StepRef{}, Usagef("step reference %q: write it like <plan>/<task>-<step>#<attempt>", s)
	}
	if err := ref.Validate(); err != nil {
		return StepRef{}, err
	}
	if ref.String() != s {
		return StepRef{}, Usagef("step reference %q is written %q", s, ref)
	}
	return ref, nil
}

// ParseStreamName reads what StreamName.String writes, and nothing else.
func ParseStreamName(s string) (StreamName, error) {
	cut := strings.LastIndexByte(s, '/')
	if cut < 0 || !streamIDPattern.MatchString(s[cut+1:]) {
		return StreamName{}, Usagef("object %q is no stream: streams are named <plan>/<task>-<step>#<attempt>/<id>", s)
	}
	ref, err := ParseStepRef(s[:cut])
	if err != nil {
		return StreamName{}, Usagef("object %q is no stream: %w", s, err)
	}
	return StreamName{Ref: ref, ID: s[cut+1:]}, nil
}

// ParseSegmentName reads what SegmentName.String writes, and nothing else.
func ParseSegmentName(s string) (SegmentName, error) {
	rest, number, err := cutNumber(s)
	if err != nil {
		return SegmentName{}, Usagef("object %q is no segment: %w", s, err)
	}
	stream, err := ParseStreamName(rest)
	if err != nil {
		return SegmentName{}, err
	}
	return SegmentName{Stream: stream, Number: number}, nil
}

// ParseChunksName reads what ChunksName.String writes, and nothing else.
func ParseChunksName(token string) (ChunksName, error) {
	s, err := UnescapeToken(token)
	if err != nil {
		return ChunksName{}, err
	}
	rest, try, err := cutNumber(s)
	if err != nil {
		return ChunksName{}, Usagef("chunks %q are of no segment: %w", s, err)
	}
	segment, err := ParseSegmentName(rest)
	if err != nil {
		return ChunksName{}, err
	}
	return ChunksName{Segment: segment, Try: try}, nil
}

// cutNumber takes "/<number>" from the end of s.
func cutNumber(s string) (rest string, number uint64, err error) {
	cut := strings.LastIndexByte(s, '/')
	if cut < 0 {
		return "", 0, Usagef("there is no number at its end")
	}
	number, err = strconv.ParseUint(s[cut+1:], 10, 64)
	if err != nil || strconv.FormatUint(number, 10) != s[cut+1:] {
		return "", 0, Usagef("%q is no number", s[cut+1:])
	}
	return s[:cut], number, nil
}

// The subjects of an object store's stream (ADR-20).
const (
	objectChunksPrefix = "$O." + BucketStreams + ".C."
	objectMetaPrefix   = "$O." + BucketStreams + ".M."
)

// ObjectMetaSubject is where what the object store knows of the object is kept in BucketStreams.
func ObjectMetaSubject(object string) string {
	return objectMetaPrefix + base64.URLEncoding.EncodeToString([]byte(object))
}

// ObjectChunksSubject is where the chunks of an object are kept in BucketStreams.
func ObjectChunksSubject(chunks string) string { return objectChunksPrefix + chunks }

// streamOfSubject is the stream that a subject of BucketStreams has something of.
func streamOfSubject(subject string) (StreamName, error) {
	if chunks, found := strings.CutPrefix(subject, objectChunksPrefix); found {
		name, err := ParseChunksName(chunks)
		return name.Segment.Stream, err
	}
	encoded, found := strings.CutPrefix(subject, objectMetaPrefix)
	if !found {
		return StreamName{}, fmt.Errorf("subject %q: %w", subject, Usagef("it is none of the bucket %s", BucketStreams))
	}
	object, err := base64.URLEncoding.DecodeString(encoded)
	if err != nil {
		return StreamName{}, Usagef("subject %q: %w", subject, err)
	}
	if name, err := ParseStreamName(string(object)); err == nil {
		return name, nil
	}
	name, err := ParseSegmentName(string(object))
	return name.Stream, err
}
