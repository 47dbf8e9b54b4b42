package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/cmd/zctl/hostfile"
	"github.com/zfleet/zfleet/fleet/natsconfig"
	"github.com/zfleet/zfleet/protocol"
)

const root = "../.."

// page is a Markdown file of the repository.
type page struct {
	path string // from the repository's root
	text string
}

func pages(t *testing.T) []page {
	t.Helper()
	var found []page
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && path != root {
			return fs.SkipDir
		}
		if entry.IsDir() || filepath.Ext(path) != ".md" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, path)
		found = append(found, page{relative, string(text)})
		return err
	})
	require.NoError(t, err)
	require.Greater(t, len(found), 5, "the documentation is found")
	return found
}

// An example in YAML that begins with "job:" is a whole job file, one that begins with "host:" a whole host file, and one that
// begins with "fleet:" a whole fleet file. Others are parts of such files.
func TestExamplesAreValid(t *testing.T) {
	t.Parallel()
	block := regexp.MustCompile("(?ms)^([ \t]*)```yaml\n(.*?)^[ \t]*```$")
	jobs, hosts, fleets := 0, 0, 0
	for _, page := range pages(t) {
		for _, match := range block.FindAllStringSubmatch(page.text, -1) {
			var example strings.Builder
			for line := range strings.Lines(match[2]) {
				example.WriteString(strings.TrimPrefix(line, match[1]))
			}
			text := example.String()
			switch {
			case strings.HasPrefix(text, "job:"):
				jobs++
				_, err := protocol.ParseJob([]byte(text))
				assert.NoErrorf(t, err, "%s has a job that zctl refuses:\n%s", page.path, text)
			case strings.HasPrefix(text, "fleet:"):
				fleets++
				_, err := natsconfig.Parse(page.path, []byte(text))
				assert.NoErrorf(t, err, "%s has a fleet file that zctl refuses:\n%s", page.path, text)
			case strings.HasPrefix(text, "host:"):
				hosts++
				file, err := hostfile.Parse(page.path, []byte(text))
				if assert.NoErrorf(t, err, "%s has a host file that zctl refuses:\n%s", page.path, text) {
					assert.NoErrorf(t, file.Validate(), "%s has a host file that zctl refuses:\n%s", page.path, text)
				}
			}
		}
	}
	assert.Positive(t, jobs, "there are examples of jobs")
	assert.Positive(t, hosts, "there are examples of host files")
	assert.Positive(t, fleets, "there are examples of fleet files")
}

func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	anchors := map[string]map[string]bool{}
	all := pages(t)
	for _, page := range all {
		anchors[page.path] = anchorsOf(page.text)
	}
	for _, page := range all {
		for _, match := range link.FindAllStringSubmatch(withoutCode(page.text), -1) {
			target, anchor, _ := strings.Cut(match[1], "#")
			if strings.Contains(target, ":") {
				continue // elsewhere
			}
			path := page.path
			if target != "" {
				path = filepath.Join(filepath.Dir(page.path), target)
			}
			_, err := os.Stat(filepath.Join(root, path))
			assert.NoErrorf(t, err, "%s links to %s", page.path, match[1])
			if anchor != "" && anchors[path] != nil {
				assert.Containsf(t, anchors[path], anchor, "%s links to %s, and there is no such heading", page.path, match[1])
			}
		}
	}
}

var (
	fence   = regexp.MustCompile("(?ms)^[ \t]*```.*?^[ \t]*```$")
	heading = regexp.MustCompile(`(?m)^#+ +(.*)$`)
)

func withoutCode(text string) string { return fence.ReplaceAllString(text, "") }

// anchorsOf are the names by which a page's headings can be linked to, as GitHub makes them.
func anchorsOf(text string) map[string]bool {
	drop := regexp.MustCompile(`[^\p{L}\p{N}\p{M}_ -]`)
	found := map[string]bool{}
	for _, match := range heading.FindAllStringSubmatch(withoutCode(text), -1) {
		name := strings.ToLower(strings.TrimSpace(match[1]))
		found[strings.ReplaceAll(drop.ReplaceAllString(name, ""), " ", "-")] = true
	}
	return found
}
