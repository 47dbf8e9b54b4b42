package mutations

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/stretchr/testify/require"
)

var (
	run   = flag.Bool("mutations.run", false, "run what has to find the mutations (./task faults:mutations)")
	seeds = flag.Int("mutations.seeds", 48, "give up a mutation that the fault harness has not found in so many seeds")
)

// batch is how many seeds are run before the next are asked for.
const batch = 8

func root(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	return root
}

// goCommand runs the go command in the module's root.
func goCommand(t *testing.T, arguments ...string) (output string, err error) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", arguments...)
	command.Dir = root(t)
	var text bytes.Buffer
	command.Stdout, command.Stderr = &text, &text
	err = command.Run()
	return text.String(), err
}

func TestEveryMutationAppliesAndCompiles(t *testing.T) {
	t.Parallel()
	for _, m := range All() {
		t.Run(m.Name, func(t *testing.T) {
			t.Parallel()
			overlay, err := m.Overlay(root(t), t.TempDir())
			require.NoError(t, err)
			output, err := goCommand(t, "build", "-overlay", overlay, "./"+path.Dir(m.File))
			require.NoError(t, err, "%s", output)
		})
	}
}

func TestAMutationWhoseTextIsGoneSaysSo(t *testing.T) {
	t.Parallel()
	m := Mutation{Name: "nothing", File: "worker/doc.go", Old: "no such text"}
	_, err := m.Overlay(root(t), t.TempDir())
	require.ErrorContains(t, err, "worker/doc.go")
	require.ErrorContains(t, err, "no such text")
}

// One after another: each uses the whole machine.
func TestEveryMutationIsFound(t *testing.T) { //nolint:paralleltest // see above
	if !*run {
		t.Skip("this takes minutes; ./task faults:mutations does it")
	}
	var table bytes.Buffer
	columns := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	for _, m := range All() {
		t.Run(m.Name, func(t *testing.T) {
			overlay, err := m.Overlay(root(t), t.TempDir())
			require.NoError(t, err)
			by, found := find(t, m, overlay)
			require.NoError(t, row(columns, m.Name, by))
			require.True(t, found, "%s", by)
		})
	}
	require.NoError(t, columns.Flush())
	_, err := os.Stdout.Write(table.Bytes())
	require.NoError(t, err)
}

func row(columns *tabwriter.Writer, name, by string) error {
	_, err := fmt.Fprintf(columns, "%s\t%s\n", name, by)
	return err
}

// find runs what has to find the mutation, and says by what it was.
func find(t *testing.T, m Mutation, overlay string) (by string, found bool) {
	t.Helper()
	if m.Test != "" {
		output, err := goCommand(t, "test", "-overlay", overlay, "-count=1", "-run", m.Test, m.Package)
		return "by " + m.Test, failed(t, output, err)
	}
	for first := 1; first <= *seeds; first += batch {
		output, err := goCommand(t, "test", "-overlay", overlay, "-count=1", "-timeout", "10m", "./itest/faults",
			"-first", strconv.Itoa(first), "-seeds", strconv.Itoa(batch))
		if failed(t, output, err) {
			seed, how := violation(output)
			return fmt.Sprintf("by seed %s of the fault harness, after at most %d: %s", seed, first+batch-1, how), true
		}
	}
	return fmt.Sprintf("not found in %d seeds of the fault harness", *seeds), false
}

// failed tells whether a test has failed; that something could not be built or run is an error of this test.
func failed(t *testing.T, output string, err error) bool {
	t.Helper()
	if err == nil {
		return false
	}
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Contains(t, output, "--- FAIL", "the mutated program was not tested: %s", output)
	return true
}

var failedSeed = regexp.MustCompile(`seed[ _](\d+)`)

// violation takes from the harness's output which seed failed first, and what was violated.
func violation(output string) (seed, how string) {
	seed, how = "?", "see its timeline"
	if found := failedSeed.FindStringSubmatch(output); found != nil {
		seed = found[1]
	}
	for line := range strings.Lines(output) {
		if strings.Contains(line, "invariant") || strings.Contains(line, "violat") {
			return seed, strings.TrimSpace(line)
		}
	}
	return seed, how
}
