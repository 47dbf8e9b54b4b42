// Overlays: a mutation as the go command takes it.

package mutations

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Overlay writes what the -overlay flag needs into the directory and returns the file to name there. root is the module's.
// The error says which text was not found.
func (m Mutation) Overlay(root, directory string) (string, error) {
	source := filepath.Join(root, filepath.FromSlash(m.File))
	text, err := os.ReadFile(source)
	if err != nil {
		return "", fmt.Errorf("mutation %q: %w", m.Name, err)
	}
	if found := strings.Count(string(text), m.Old); found != 1 {
		return "", fmt.Errorf("mutation %q: its text is %d times in %s, and has to be there once; if that code has changed, change"+
			" itest/mutations with it:\n%s", m.Name, found, m.File, m.Old)
	}
	mutant := filepath.Join(directory, "mutant.go")
	if err := os.WriteFile(mutant, []byte(strings.Replace(string(text), m.Old, m.New, 1)), 0o600); err != nil {
		return "", fmt.Errorf("mutation %q: %w", m.Name, err)
	}
	data, err := json.Marshal(map[string]map[string]string{"Replace": {source: mutant}})
	if err != nil {
		return "", fmt.Errorf("mutation %q: %w", m.Name, err)
	}
	overlay := filepath.Join(directory, "overlay.json")
	if err := os.WriteFile(overlay, data, 0o600); err != nil {
		return "", fmt.Errorf("mutation %q: %w", m.Name, err)
	}
	return overlay, nil
}
