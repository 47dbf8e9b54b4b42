// The search: breadth first, so that the first counterexample is one of the shortest.

package model

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
)

// Result is what a search has found.
type Result struct {
	// States are how many different ones were found, Transitions how often one followed another, and Depth is the longest of the
	// shortest ways to a state.
	States, Transitions, Depth int
	// Ends are the states after which nothing happens.
	Ends int
	// Counterexample is nil where every property holds in every state.
	Counterexample *Counterexample
}

// Counterexample is a way to a state in which something is wrong.
type Counterexample struct {
	Wrong string
	// Steps are the transitions, with the state after each.
	Steps []string
}

func (c *Counterexample) String() string {
	return fmt.Sprintf("%s, after %d steps:\n%s", c.Wrong, len(c.Steps), strings.Join(c.Steps, "\n"))
}

// node is a state that was found: from which, and as which of its successors.
type node struct {
	parent int32
	choice uint16
}

// Search looks at every state that can be reached. The error is the context's.
func (m *Model) Search(ctx context.Context) (Result, error) {
	var result Result
	first := m.initial()
	found := map[[16]byte]struct{}{hash(first): {}}
	nodes := []node{{parent: -1}}
	type entry struct {
		state *state
		at    int32
	}
	level := []entry{{first, 0}}
	for len(level) > 0 {
		var next []entry
		for _, from := range level {
			if ctx.Err() != nil {
				result.States = len(nodes)
				return result, fmt.Errorf("after %d states: %w", len(nodes), context.Cause(ctx))
			}
			choice, wrong := uint16(0), ""
			alive := m.successors(from.state, func(_ Label, to *state) {
				choice++
				result.Transitions++
				key := hash(to)
				if _, known := found[key]; known || wrong != "" {
					return
				}
				found[key] = struct{}{}
				at := int32(len(nodes))
				nodes = append(nodes, node{from.at, choice - 1})
				if wrong = m.violation(to); wrong != "" {
					result.Counterexample = m.explain(nodes, at, wrong)
				}
				next = append(next, entry{to, at})
			})
			if !alive {
				result.Ends++
				if wrong = m.unfinished(from.state); wrong != "" {
					result.Counterexample = m.explain(nodes, from.at, wrong)
				}
			}
			if wrong != "" {
				result.States = len(nodes)
				return result, nil
			}
		}
		level = next
		result.Depth++
	}
	result.States = len(nodes)
	return result, nil
}

func hash(s *state) (key [16]byte) {
	var buffer [1024]byte
	sum := sha256.Sum256(s.key(buffer[:0]))
	copy(key[:], sum[:])
	return key
}

// explain goes the way to a state once more.
func (m *Model) explain(nodes []node, at int32, wrong string) *Counterexample {
	var choices []uint16
	for ; nodes[at].parent >= 0; at = nodes[at].parent {
		choices = append(choices, nodes[at].choice)
	}
	c := &Counterexample{Wrong: wrong}
	s, before := m.initial(), ""
	for i := len(choices) - 1; i >= 0; i-- {
		var label Label
		var after *state
		n := uint16(0)
		m.successors(s, func(l Label, to *state) {
			if n == choices[i] {
				label, after = l, to
			}
			n++
		})
		line := fmt.Sprintf("%3d  %v", len(c.Steps)+1, label)
		if now := after.String(); now != before {
			line += "\n       " + now
			before = now
		}
		c.Steps = append(c.Steps, line)
		s = after
	}
	return c
}
