package abstractions_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/zfleet/zfleet/abstractions"
	"github.com/zfleet/zfleet/protocol"
)

func TestNamesAreThoseOfZrepl(t *testing.T) {
	t.Parallel()
	const id = protocol.JobID("push with legitimate name")
	for name, wanted := range map[string]string{
		abstractions.HoldTag(abstractions.StepHold, id):                                "zrepl_STEP_J_push with legitimate name",
		abstractions.HoldTag(abstractions.LastReceivedHold, id):                        "zrepl_last_received_J_push with legitimate name",
		abstractions.BookmarkName(abstractions.StepBookmark, 0xff, id):                 "zrepl_STEP_G_00000000000000ff_J_push with legitimate name",
		abstractions.BookmarkName(abstractions.Cursor, 0x932f3a7089080ce2, id):         "zrepl_CURSOR_G_932f3a7089080ce2_J_push with legitimate name",
		abstractions.BookmarkName(abstractions.TentativeCursor, 1, id):                 "zrepl_CURSORTENTATIVE_G_0000000000000001_J_push with legitimate name",
		abstractions.BookmarkName(abstractions.CursorV1, 1, id):                        "zrepl_replication_cursor",
		abstractions.HoldTag(abstractions.Cursor, id):                                  "",
		abstractions.BookmarkName(abstractions.StepHold, 0xff, id):                     "",
		abstractions.BookmarkName(abstractions.LastReceivedHold, 0xffffffffffffff, id): "",
	} {
		require.Equal(t, wanted, name)
	}
}

func TestParseBookmarkName(t *testing.T) {
	t.Parallel()
	kind, guid, id, ok := abstractions.ParseBookmarkName("zrepl_CURSORTENTATIVE__G_932f3a7089080ce2_J_x")
	require.True(t, ok, "zrepl's own spelling of tentative cursors is read")
	require.Equal(t, abstractions.TentativeCursor, kind)
	require.Equal(t, uint64(0x932f3a7089080ce2), guid)
	require.Equal(t, protocol.JobID("x"), id)

	_, _, id, ok = abstractions.ParseBookmarkName("zrepl_CURSOR_G_932f3a7089080ce2_J_a_G_932f3a7089080ce2_J_b")
	require.True(t, ok)
	require.Equal(t, protocol.JobID("a_G_932f3a7089080ce2_J_b"), id, "a JobID may look like the rest of a name")

	for _, foreign := range []string{
		"",
		"mine",
		"zrepl_CURSOR",
		"zrepl_CURSOR_G_932f3a7089_J_x",
		"zrepl_CURSOR_G_932F3A7089080CE2_J_x",
		"zrepl_CURSOR_G_+32f3a7089080ce2_J_x",
		"zrepl_CURSOR_G_932f3a7089080ce2_J_",
		"zrepl_CURSOR_G_932f3a7089080ce2_J_a\tb",
		"zrepl_CURSOR_G_932f3a7089080ce2x",
		"my_zrepl_CURSOR_G_932f3a7089080ce2_J_x",
		"zrepl_replication_cursor2",
	} {
		_, _, _, ok := abstractions.ParseBookmarkName(foreign)
		require.False(t, ok, "%q is not ours", foreign)
	}
}

func TestNamesRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		id := protocol.JobID(rapid.StringMatching(`[a-zA-Z0-9][-a-zA-Z0-9_.: ]{0,40}`).Draw(t, "job id"))
		guid := rapid.Uint64().Draw(t, "guid")
		for _, kind := range abstractions.AllKinds() {
			if kind.IsHold() {
				gotKind, gotID, ok := abstractions.ParseHoldTag(abstractions.HoldTag(kind, id))
				require.True(t, ok)
				require.Equal(t, kind, gotKind)
				require.Equal(t, id, gotID)
				continue
			}
			gotKind, gotGUID, gotID, ok := abstractions.ParseBookmarkName(abstractions.BookmarkName(kind, guid, id))
			require.True(t, ok)
			require.Equal(t, kind, gotKind)
			if kind != abstractions.CursorV1 {
				require.Equal(t, guid, gotGUID)
				require.Equal(t, id, gotID)
			}
		}
	})
}

func FuzzParseHoldTag(f *testing.F) {
	for _, seed := range []string{"zrepl_STEP_J_a", "zrepl_last_received_J_a b", "zrepl_STEP_J_", "keep", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, tag string) {
		kind, id, ok := abstractions.ParseHoldTag(tag)
		if !ok {
			return
		}
		require.NoError(t, id.Validate())
		require.Equal(t, tag, abstractions.HoldTag(kind, id), "what is parsed is what would be written")
	})
}

func FuzzParseBookmarkName(f *testing.F) {
	for _, seed := range []string{
		"zrepl_STEP_G_932f3a7089080ce2_J_a", "zrepl_CURSOR_G_0000000000000001_J_a.b", "zrepl_replication_cursor",
		"zrepl_CURSORTENTATIVE_G_932f3a7089080ce2_J_a", "zrepl_CURSORTENTATIVE__G_932f3a7089080ce2_J_a", "b", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		kind, guid, id, ok := abstractions.ParseBookmarkName(name)
		if !ok {
			return
		}
		written := abstractions.BookmarkName(kind, guid, id)
		if kind == abstractions.TentativeCursor && written != name {
			written = "zrepl_CURSORTENTATIVE__G_" + written[len("zrepl_CURSORTENTATIVE_G_"):]
		}
		require.Equal(t, name, written, "what is parsed is what would be written")
	})
}

func TestParseKind(t *testing.T) {
	t.Parallel()
	for _, kind := range abstractions.AllKinds() {
		got, err := abstractions.ParseKind(string(kind))
		require.NoError(t, err)
		require.Equal(t, kind, got)
	}
	_, err := abstractions.ParseKind("hold")
	require.ErrorContains(t, err, `kind "hold": use one of step-hold`)
}
