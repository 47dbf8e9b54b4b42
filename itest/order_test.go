// The order of a worker's durable actions is the one that the model of the step protocol searches.

package itest_test

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/itest/model"
	"github.com/zfleet/zfleet/worker"
)

// claimsMade are the fail points that the workers of one role pass, claim by claim. It is for workers that work on one claim at
// a time.
type claimsMade struct {
	role string
	// dieAt kills the worker that comes by there first.
	dieAt string

	mu     sync.Mutex
	claims [][]string
}

func (c *claimsMade) pass(point string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	action, begins := strings.CutSuffix(point, ".before")
	if begins && strings.HasPrefix(point, c.role) {
		if action == c.role+".claimed" {
			c.claims = append(c.claims, nil)
		}
		last := len(c.claims) - 1
		c.claims[last] = append(c.claims[last], action)
	}
	if point != c.dieAt {
		return false
	}
	c.dieAt = ""
	return true
}

// has tells whether some claim has done all of that, and nothing else.
func (c *claimsMade) has(points []string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.claims, func(passed []string) bool {
		return slices.Equal(without(passed, sometimes), without(points, sometimes))
	})
}

// pointsOf are the fail points of a program, in the model's order.
func pointsOf(program model.Program, role model.Role) []string {
	var points []string
	for _, action := range model.Order(program) {
		if point := action.FailPoint(role); point != "" {
			points = append(points, point)
		}
	}
	return points
}

// sometimes are actions that a worker leaves out where they would change nothing.
func sometimes(point string) bool { return point == "send.tidy" || point == "recv.release-received" }

// leftOut are actions that the model leaves out: a placeholder above the filesystem holds nothing, and what a worker that is dead
// gives back does not arrive.
func leftOut(point string) bool {
	return point == "recv.placeholder" || strings.HasSuffix(point, ".nak")
}

func without(points []string, leaveOut func(string) bool) []string {
	return slices.DeleteFunc(slices.Clone(points), leaveOut)
}

// inOrder tells whether the points come in the order of the others.
func inOrder(points, order []string) bool {
	for _, one := range order {
		if len(points) > 0 && points[0] == one {
			points = points[1:]
		}
	}
	return len(points) == 0
}

func TestWorkersActInTheOrderOfTheModel(t *testing.T) {
	t.Parallel()
	sends, receives := &claimsMade{role: "send"}, &claimsMade{role: "recv"}
	p := newPair(t)
	names := p.tree(1, 2)
	p.hostA.Slots, p.hostB.Slots = worker.Slots{Send: 1, Recv: 1}, worker.Slots{Send: 1, Recv: 1}
	p.hostA.Dies, p.hostB.Dies = sends.pass, receives.pass
	p.startAll()
	job := p.job("prod")
	p.Submit(job)
	p.MustRun("prod")
	p.snapshots(names, 3, 3)
	p.MustRun("prod")
	// One that dies with its step confirmed leaves a step to settle, and protection that the next one finds.
	p.snapshots(names, 4, 4)
	sends.mu.Lock()
	sends.dieAt = "send.cursor.before"
	sends.mu.Unlock()
	p.StartWorker(p.hostA)
	p.MustRun("prod")
	// One that dies before it confirms has what it received, when its item comes again. The coordinator may find that out before,
	// and plan no more of it; then there is another time.
	for round := 5; round == 5 || round < 25 && !receives.has(pointsOf(model.HaveIt, model.Receiver)); round++ {
		p.snapshots(names, round, round)
		receives.mu.Lock()
		receives.dieAt = "recv.last-received.after"
		receives.mu.Unlock()
		p.StartWorker(p.hostB)
		p.MustRun("prod")
	}

	sends.mu.Lock()
	defer sends.mu.Unlock()
	receives.mu.Lock()
	defer receives.mu.Unlock()
	for role, claims := range map[model.Role][][]string{model.Sender: sends.claims, model.Receiver: receives.claims} {
		var programs []model.Program
		whole := map[model.Program]bool{}
		for _, program := range []model.Program{model.Send, model.Settle, model.ReceiveStep, model.HaveIt} {
			if program.Role() == role {
				programs = append(programs, program)
			}
		}
		for _, passed := range claims {
			passed = without(passed, leftOut)
			fits := false
			for _, program := range programs {
				order := pointsOf(program, role)
				if slices.Equal(without(passed, sometimes), without(order, sometimes)) && inOrder(passed, order) {
					whole[program] = true
				}
				begun, ended := passed, true
				for _, end := range []model.Program{model.Failed, model.Dropped} {
					if at := slices.Index(passed, pointsOf(end, role)[0]); at >= 0 {
						begun, ended = passed[:at], inOrder(passed[at:], pointsOf(end, role))
					}
				}
				fits = fits || ended && inOrder(begun, order)
			}
			require.True(t, fits, "the %v did %v, which no program of the model does in this order", role, passed)
		}
		for _, program := range programs {
			require.True(t, whole[program], "no %v has done all of %v: %v", role, pointsOf(program, role), claims)
		}
	}
	require.Contains(t, slices.Concat(receives.claims...), "recv.release-received", "a later step releases what was held before")
}

func TestTheModelNamesFailPointsOfWorkers(t *testing.T) {
	t.Parallel()
	for program := model.Send; program <= model.Overtaken; program++ {
		for _, role := range []model.Role{model.Sender, model.Receiver} {
			if program < model.Failed && role != program.Role() {
				continue
			}
			for _, point := range pointsOf(program, role) {
				require.Contains(t, worker.FailPoints(), point+".before")
				require.Contains(t, worker.FailPoints(), point+".after")
			}
		}
	}
}
