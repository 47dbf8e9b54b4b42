package protocol_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/zfleet/zfleet/protocol"
)

func someChunks(t *rapid.T) protocol.ChunksName {
	return protocol.ChunksName{
		Segment: protocol.SegmentName{
			Stream: protocol.StreamName{
				Ref: protocol.StepRef{
					Plan: protocol.PlanID(rapid.StringMatching(`[a-z0-9-]{1,63}`).Draw(t, "plan")),
					Task: rapid.IntRange(0, 1<<40).Draw(t, "task"), Step: rapid.IntRange(0, 1<<40).Draw(t, "step"),
					Attempt: rapid.IntRange(1, 1<<40).Draw(t, "attempt"),
				},
				ID: rapid.StringMatching(`[a-z0-9]{8,32}`).Draw(t, "id"),
			},
			Number: rapid.Uint64().Draw(t, "number"),
		},
		Try: rapid.Uint64().Draw(t, "try"),
	}
}

func TestNamesInTheObjectStoreCanBeReadBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		chunks := someChunks(t)
		segment, stream := chunks.Segment, chunks.Segment.Stream
		gotChunks, err := protocol.ParseChunksName(chunks.String())
		require.NoError(t, err)
		require.Equal(t, chunks, gotChunks)
		gotSegment, err := protocol.ParseSegmentName(segment.String())
		require.NoError(t, err)
		require.Equal(t, segment, gotSegment)
		gotStream, err := protocol.ParseStreamName(stream.String())
		require.NoError(t, err)
		require.Equal(t, stream, gotStream)
		gotRef, err := protocol.ParseStepRef(stream.Ref.String())
		require.NoError(t, err)
		require.Equal(t, stream.Ref, gotRef)

		require.NotContains(t, chunks.String(), ".", "chunks are named by one subject token")
		_, err = protocol.ParseSegmentName(stream.String())
		require.Error(t, err, "a stream is no segment")
		_, err = protocol.ParseStreamName(segment.String())
		require.Error(t, err, "a segment is no stream")
	})
}

func TestNamesThatAreNotOurs(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"", "/", "a", "photo.jpg", "20261123t015322-x7k2q/3-1#2", "20261123t015322-x7k2q/3-1#2/", "20261123t015322-x7k2q/3-1#2/short",
		"20261123t015322-x7k2q/3-1#0/abcdefgh", "20261123t015322-x7k2q/03-1#2/abcdefgh", "20261123t015322-x7k2q/+3-1#2/abcdefgh",
		"20261123t015322-x7k2q/3--1#2/abcdefgh", "Plan/3-1#2/abcdefgh", "20261123t015322-x7k2q/3-1#2/ABCDEFGH",
		"20261123t015322-x7k2q/3-1#2/abcdefgh/x",
	} {
		_, err := protocol.ParseStreamName(name)
		require.Error(t, err, name)
		require.Equal(t, protocol.Usage, protocol.KindOf(err, protocol.Transient), name)
	}
	for _, name := range []string{
		"20261123t015322-x7k2q/3-1#2/abcdefgh/", "20261123t015322-x7k2q/3-1#2/abcdefgh/01", "20261123t015322-x7k2q/3-1#2/abcdefgh/-1",
		"20261123t015322-x7k2q/3-1#2/abcdefgh/18446744073709551616",
	} {
		_, err := protocol.ParseSegmentName(name)
		require.Error(t, err, name)
	}
}

func FuzzParseChunksName(f *testing.F) {
	for seed := range 3 {
		f.Add(rapid.Custom(someChunks).Example(seed).String())
	}
	f.Add("")
	f.Add("=")
	f.Add("20261123t015322-x7k2q/3-1=232/abcdefgh/7")
	f.Fuzz(func(t *testing.T, token string) {
		name, err := protocol.ParseChunksName(token)
		if err == nil {
			require.Equal(t, token, name.String(), "a name is written in one way only")
		}
	})
}

func FuzzParseSegmentName(f *testing.F) {
	for seed := range 3 {
		name := rapid.Custom(someChunks).Example(seed).Segment
		f.Add(name.String())
		f.Add(name.Stream.String())
	}
	f.Add("/0")
	f.Fuzz(func(t *testing.T, text string) {
		if name, err := protocol.ParseSegmentName(text); err == nil {
			require.Equal(t, text, name.String())
		}
		if name, err := protocol.ParseStreamName(text); err == nil {
			require.Equal(t, text, name.String())
		}
		if ref, err := protocol.ParseStepRef(text); err == nil {
			require.Equal(t, text, ref.String())
		}
	})
}
