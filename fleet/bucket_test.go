package fleet

import (
	"testing"
	"testing/synctest"

	"github.com/nats-io/nats.go/jetstream"
)

// deafWatcher never says that it has ended.
type deafWatcher struct {
	jetstream.KeyWatcher

	updates chan jetstream.KeyValueEntry
}

func (w deafWatcher) Updates() <-chan jetstream.KeyValueEntry { return w.updates }
func (w deafWatcher) Stop() error                             { return nil }

func TestAWatcherThatDoesNotSayThatItHasEndedIsLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(*testing.T) {
		watch := &bucketWatch{KeyWatcher: deafWatcher{updates: make(chan jetstream.KeyValueEntry)}, cancel: func() {}}
		watch.stop() // a deadlock, were it waited for
	})
}
