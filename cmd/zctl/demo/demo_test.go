package demo

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/zfleet/zfleet/cmd/zctl/progress"
	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/zfs/zfstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.ClientLeak()) }

func playOnce(t *testing.T, filePools bool) (string, error) {
	t.Helper()
	var out bytes.Buffer
	dir := t.TempDir()
	err := Run(t.Context(), Options{
		Out: &out, Display: func() progress.Display { return progress.NewLines(&out, time.Second) },
		TempDir: dir, Logger: slog.New(slog.DiscardHandler), Real: filePools,
	})
	left, reading := os.ReadDir(dir)
	require.NoError(t, reading)
	require.Empty(t, left, "the demo must leave nothing behind")
	return out.String(), err
}

func requireStory(t *testing.T, out string, err error) {
	t.Helper()
	require.NoError(t, err, "%s", out)
	for _, part := range []string{
		"done: 6 replicated", "resumed", "the next worker sent the other", "Both sides are equal", "@thursday",
		"FAILED", "zfs recv", "Everything that the demo made is removed again.",
	} {
		require.Contains(t, out, part)
	}
}

func TestDemo(t *testing.T) {
	t.Parallel()
	out, err := playOnce(t, false)
	requireStory(t, out, err)
}

func TestDemoStopsWhenItIsTold(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	var out bytes.Buffer
	dir := t.TempDir()
	err := Run(ctx, Options{
		Out: &out, TempDir: dir, Logger: slog.New(slog.DiscardHandler),
		Display: func() progress.Display {
			cancel() // in the middle of the first run
			return progress.NewLines(&out, time.Second)
		},
	})
	require.ErrorIs(t, err, context.Canceled)
	left, reading := os.ReadDir(dir)
	require.NoError(t, reading)
	require.Empty(t, left, "the demo must leave nothing behind")
}

func TestRealDemo(t *testing.T) {
	zfstest.RequireReal(t)
	out, err := playOnce(t, true)
	requireStory(t, out, err)
}
