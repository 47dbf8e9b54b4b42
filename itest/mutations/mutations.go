// The mutations: what is broken where, and what has to find it.

package mutations

// Mutation is a mistake in one source file.
type Mutation struct {
	// Name says what is wrong.
	Name string
	// File is the source file, from the module's root. Old occurs in it exactly once, and New takes its place.
	File, Old, New string
	// Test names the test that finds it, as -run does, in Package; empty is the fault harness.
	Package, Test string
}

// All are the mutations. The first five are those that the fault harness or the model has to find.
func All() []Mutation {
	return []Mutation{
		{
			Name: "the cursor is moved before the receiver has confirmed",
			File: "worker/stream.go",
			Old:  "	found.path.Compression, found.path.Receivers = header.Compression, len(objects.claim.item.Each())\n",
			New: "	if _, err := t.worker.keeper.AfterConfirmation(ctx, s.step); err != nil {\n" +
				"		return nil, err\n" +
				"	}\n" +
				"	found.path.Compression, found.path.Receivers = header.Compression, len(objects.claim.item.Each())\n",
		},
		{
			Name: "two claims on the same place run at the same time",
			File: "worker/claimlock.go",
			Old:  "		if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {\n",
			New:  "		if err := unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {\n",
		},
		{
			Name: "the step's snapshots are not held",
			File: "abstractions/moments.go",
			Old:  "		create.hold = append(create.hold, step.To)\n",
			New:  "",
		},
		{
			Name: "the item is acknowledged before the cursor is moved",
			File: "worker/claim.go",
			Old:  "	begun := c.begin(ctx, all)\n",
			New:  "	begun := c.begin(ctx, all)\n	c.acknowledge(ctx)\n",
			// The coordinator makes up for a lost item, after the job's deadlines; so the harness sees no harm in the end.
			Package: "./itest", Test: "TestWorkersActInTheOrderOfTheModel",
		},
		{
			Name: "the receiver confirms before it has looked at the guid",
			File: "worker/recv.go",
			Old:  "		if err == nil {\n			to, err = t.settleReceive(ctx, r)\n		}\n",
			New: "		if err == nil {\n			early, cancel := context.WithTimeout(ctx, t.item.Deadlines.Confirm.Std())\n" +
				"			err = way.Confirm(early, protocol.Confirmation{ToGUID: t.item.Step.To.GUID})\n			cancel()\n		}\n" +
				"		if err == nil {\n			to, err = t.settleReceive(ctx, r)\n		}\n",
		},
		{
			Name: "what was received is not held",
			File: "abstractions/manager.go",
			Old:  "	if !needsOf(step.Protection).lastReceived {\n",
			New:  "	if needsOf(step.Protection).lastReceived {\n		return nil\n	}\n	if !needsOf(step.Protection).lastReceived {\n",
		},
		{
			Name: "a deposed coordinator overwrites its successor's records",
			File: "coordinator/store.go",
			Old:  "		revision, err := s.bucket.Update(ctx, key, data, last)\n",
			New:  "		revision, err := s.bucket.Put(ctx, key, data)\n",
			// A term ends by the clock before the next one begins, so the harness has seen none that writes late.
			Package: "./coordinator", Test: "TestADeposedLeaderDoesNotOverwriteItsSuccessorsRecords",
		},
	}
}
