// Shrinking: the least of a schedule's faults that still fail.

package faults

import "slices"

// Shrink takes faults out of a schedule for which fails is true, as long as it stays so: first half of them, then fewer and
// fewer at once, down to single ones.
func Shrink(schedule Schedule, fails func(Schedule) bool) Schedule {
	for size := (len(schedule.Faults) + 1) / 2; size > 0; {
		smaller := false
		for from := 0; from < len(schedule.Faults); {
			to := min(from+size, len(schedule.Faults))
			candidate := schedule
			candidate.Faults = slices.Concat(schedule.Faults[:from], schedule.Faults[to:])
			if fails(candidate) {
				schedule, smaller = candidate, true
			} else {
				from = to
			}
		}
		if size == 1 && !smaller {
			break
		}
		size = max(1, size/2)
		if size == 1 && len(schedule.Faults) == 0 {
			break
		}
	}
	return schedule
}
