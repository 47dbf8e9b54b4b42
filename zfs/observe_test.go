package zfs

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

func TestObserveRecordsEveryCommand(t *testing.T) {
	t.Parallel()
	recorder := tracetest.NewSpanRecorder()
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	inner := &script{t: t, answers: []answer{
		{args: "zfs destroy tank/a@1"},
		{args: "zfs destroy tank/a@2", exit: 1, stderr: "cannot\ndestroy\n"},
		{args: "zfs", err: errors.New("not found")},
	}}
	runner := Observe(inner, logger, sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)))
	_, err := runner.Run(t.Context(), Command{Args: []string{"zfs", "destroy", "tank/a@1"}})
	require.NoError(t, err)
	result, err := runner.Run(t.Context(), Command{Args: []string{"zfs", "destroy", "tank/a@2"}})
	require.NoError(t, err)
	require.Equal(t, 1, result.ExitCode)
	_, err = runner.Run(t.Context(), Command{Args: []string{"zfs"}})
	require.Error(t, err)

	spans := recorder.Ended()
	require.Len(t, spans, 3)
	require.Equal(t, "zfs destroy", spans[0].Name())
	require.Contains(t, spans[0].Attributes(), attribute.String("zfs.command", "zfs destroy tank/a@1"))
	require.Contains(t, spans[0].Attributes(), attribute.Int("process.exit.code", 0))
	require.Equal(t, codes.Unset, spans[0].Status().Code)
	require.Equal(t, sdktrace.Status{Code: codes.Error, Description: "cannot destroy"}, spans[1].Status())
	require.Equal(t, "not found", spans[2].Status().Description)
	require.Contains(t, log.String(), `msg="command ended" command="zfs destroy tank/a@1"`)
	require.Contains(t, log.String(), `exit_status=1 stderr="cannot destroy"`)
	require.Contains(t, log.String(), `error="not found"`)
}

func TestCommandSummaries(t *testing.T) {
	t.Parallel()
	long := string(bytes.Repeat([]byte("x"), 500))
	for want, args := range map[string][]string{
		"":                                    nil,
		"zfs":                                 {"zfs"},
		"zfs version":                         {"zfs", "version"},
		"zfs list":                            {"zfs", "list", "-Hp", "-o", "name"},
		"zfs recv tank/x":                     {"zfs", "recv", "-u", "-o", "a=b", "tank/x"},
		"zfs send " + long[:maxSummary] + "…": {"zfs", "send", "-t", long},
	} {
		require.Equal(t, want, summary(args))
	}
}

func TestCommandErrorText(t *testing.T) {
	t.Parallel()
	require.EqualError(t, &CommandError{Args: []string{"zfs", "x"}, ExitCode: -1}, "zfs x: ended by a signal")
	require.EqualError(t, &CommandError{Args: []string{"zfs", "x", "y"}, ExitCode: 2, Stderr: "usage:\n\tx y\n"}, "zfs x y: exit status 2")
	require.EqualError(t, &CommandError{Args: []string{"zfs", "x", "y"}, ExitCode: 2, Stderr: "bad y\nusage:\n\tx y\n"},
		"zfs x y: bad y (exit status 2)")
}
