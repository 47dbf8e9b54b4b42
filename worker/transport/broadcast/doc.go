// Package broadcast lets one zfs send feed several receivers.
//
// A Broadcast reads the stream once, into a window of memory, and gives it to every Reader at the reader's own pace. The
// window is what the fastest may be ahead of the slowest: when it is full, the stream waits for the slowest, and so
// does zfs send. That is all the memory there is, whatever the readers do, and it is taken as it is needed: a stream of a
// few kilobytes costs one block.
//
//	zfs send ──▶ Run ──▶ [ block | block | block | …  window ]
//	                        ▲               ▲        ▲
//	                        │               │        └ a reader that waits for more
//	                        │               └ another, at its own pace
//	                        └ the slowest: what is before it is free
//
// Readers do not harm each other. One that is closed, because its receiver failed or has all it wants, is forgotten. One
// that alone holds back all others for too long is dropped with ErrLagged, and the others go on without it; its receiver
// then gets a stream of its own. The last one that is left is never dropped.
//
// Every byte is copied twice: into the window, and out of it by each reader. No goroutine is started: Run works in its
// caller's.
package broadcast
