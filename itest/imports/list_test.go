// What go list says about the project's packages.

package imports

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/zfleet/zfleet"

// listed is a package as go list describes it. All paths are import paths.
type listed struct {
	ImportPath string
	Name       string
	Dir        string
	// GoFiles are the names of the files that are compiled here; IgnoredGoFiles are those for other systems.
	GoFiles        []string
	IgnoredGoFiles []string
	// Imports, TestImports and XTestImports are direct imports of the package, of its own tests, and of those in <name>_test.
	Imports      []string
	TestImports  []string
	XTestImports []string
	// Deps are all packages that it needs, directly or not.
	Deps  []string
	Error *struct{ Err string }
}

// short is a package's path within the project: "coordinator/plan". The second value is false for other people's packages.
func short(path string) (string, bool) {
	if path == module {
		return ".", true
	}
	return strings.CutPrefix(path, module+"/")
}

// packages are all packages of the project.
func packages(t *testing.T) []listed {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", "list", "-e",
		"-json=ImportPath,Name,Dir,GoFiles,IgnoredGoFiles,Imports,TestImports,XTestImports,Deps,Error", module+"/...")
	var complaint strings.Builder
	command.Stderr = &complaint
	output, err := command.Output()
	require.NoError(t, err, "%s: %s", command, &complaint)
	var all []listed
	for decoder := json.NewDecoder(strings.NewReader(string(output))); ; {
		var one listed
		err := decoder.Decode(&one)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err, "reading what %s says", command)
		all = append(all, one)
	}
	require.Greater(t, len(all), 5, "go list finds the project's packages")
	return all
}
