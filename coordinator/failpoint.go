// Fail points: the names of the coordinator's durable actions, at which tests kill it.

package coordinator

// The durable actions.
const (
	pointLeaseAcquire = "lease.acquire"
	pointLeaseRenew   = "lease.renew"
	pointLeaseRelease = "lease.release"
	pointPlanCreate   = "plan.create"
	pointPlanSave     = "plan.save"
	pointPlanRemove   = "plan.remove"
	pointTaskCreate   = "task.create"
	pointTaskSave     = "task.save"
	pointItemPublish  = "item.publish"
	pointItemWithdraw = "item.withdraw"
	pointCursorRecord = "cursor.record"
)

func before(point string) string { return point + ".before" }
func after(point string) string  { return point + ".after" }

// FailPoints are the names that Config.FailPoint is called with: each durable action's, before and after it.
func FailPoints() []string {
	var points []string
	for _, point := range []string{
		pointLeaseAcquire, pointLeaseRenew, pointLeaseRelease, pointPlanCreate, pointPlanSave, pointPlanRemove, pointTaskCreate,
		pointTaskSave, pointItemPublish, pointItemWithdraw, pointCursorRecord,
	} {
		points = append(points, before(point), after(point))
	}
	return points
}
