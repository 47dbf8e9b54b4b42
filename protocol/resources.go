// Resources: the streams, consumers and buckets, and what is done with them beyond the NATS client's own methods.

package protocol

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Resources are the fleet's streams and buckets. The handles are safe for concurrent use.
type Resources struct {
	JetStream   jetstream.JetStream
	Work        jetstream.Stream
	Events      jetstream.Stream
	DeadLetters jetstream.Stream
	Jobs        jetstream.KeyValue
	Plans       jetstream.KeyValue
	Cursors     jetstream.KeyValue
	Hosts       jetstream.KeyValue
	Leader      jetstream.KeyValue
	// Streams is the bucket for the segments of streams that go through the object store.
	Streams jetstream.ObjectStore
}

// ResourceOptions are what an operator can choose about the resources. The zero value is fit for a single server.
type ResourceOptions struct {
	// Replicas is how many servers of a NATS cluster keep each stream and bucket. 0 leaves what exists as it is, and creates
	// what does not with 1.
	Replicas int
	// WorkMaxAge is when a work item is dropped that nobody has taken; 0 is 30 days. It is also the longest that a step may
	// run.
	WorkMaxAge time.Duration
	// EventsMaxAge is how long events are kept; 0 is 7 days.
	EventsMaxAge time.Duration
	// DeadLettersMaxAge is how long dead letters are kept; 0 is 30 days.
	DeadLettersMaxAge time.Duration
	// StreamsMaxBytes is the quota of the bucket for the segments of streams, in bytes: what all streams under way may have
	// stored together. 0 is DefaultStreamsMaxBytes.
	StreamsMaxBytes int64
	// StreamsStorage is where NATS keeps the segments of streams: in files, which is the zero value, or in memory. A bucket
	// that exists keeps its storage.
	StreamsStorage jetstream.StorageType
}

// DefaultStreamsMaxBytes is the quota of the bucket for the segments of streams where none is set.
const DefaultStreamsMaxBytes = 1 << 30

const (
	// DefaultAckWait is how long a worker that says nothing keeps a work item, before it goes to another.
	DefaultAckWait = 30 * time.Second
	// DefaultMaxDeliveries is how often a work item may be delivered before a worker should give it up as a dead letter:
	// something in it may be what kills the workers. The consumers themselves set no bound, because an item past it would stay in
	// the stream unseen.
	DefaultMaxDeliveries = 20

	jobHistory            = 10               // versions of a job's spec that are kept
	eventsPerSubject      = 256              // of one kind for one step; bounds progress
	deadLettersPerSubject = 4096             // from one reporter
	maxAckPending         = 1024             // items of one consumer under way or in back-off
	markerTTL             = time.Hour        // how long an expired or purged key leaves its mark for watchers
	workDuplicates        = time.Hour        // a leader may take over this late, and publish an item again
	eventDuplicates       = 10 * time.Minute // a worker may try this long to publish an event
	ensureTries           = 5                // several coordinators may create the same resource at once
	answerTimeout         = 10 * time.Second // how long the answer about a resource may take before it counts as lost
	readTimeout           = 3 * time.Second  // and the answer with a key's value
)

// ErrRevision says that somebody else has changed the key since the revision that a write was to follow.
var ErrRevision = errors.New("somebody else has changed the key")

// MissingResources says that the fleet's streams or buckets are not there.
type MissingResources struct {
	// Names are the missing streams and buckets, in order.
	Names []string
}

// Error names what is missing and says what to do.
func (e *MissingResources) Error() string {
	return fmt.Sprintf("NATS has no %s: start a coordinator first (zctl coordinator, or zctl server), which creates them",
		strings.Join(e.Names, ", "))
}

func (o ResourceOptions) streams() []jetstream.StreamConfig {
	age := func(set, standard time.Duration) time.Duration {
		if set > 0 {
			return set
		}
		return standard
	}
	const day = 24 * time.Hour
	return []jetstream.StreamConfig{
		{
			Name:        StreamWork,
			Description: "zfleet: steps for the workers",
			Subjects:    []string{WorkSubjects},
			Retention:   jetstream.WorkQueuePolicy,
			Storage:     jetstream.FileStorage,
			Discard:     jetstream.DiscardOld,
			MaxAge:      age(o.WorkMaxAge, 30*day),
			Duplicates:  workDuplicates,
			AllowDirect: true,
		},
		{
			Name:              StreamEvents,
			Description:       "zfleet: what happened to the steps",
			Subjects:          []string{EventSubjects},
			Retention:         jetstream.LimitsPolicy,
			Storage:           jetstream.FileStorage,
			Discard:           jetstream.DiscardOld,
			MaxAge:            age(o.EventsMaxAge, 7*day),
			MaxMsgsPerSubject: eventsPerSubject,
			Duplicates:        eventDuplicates,
			AllowDirect:       true,
		},
		{
			Name:              StreamDeadLetters,
			Description:       "zfleet: messages that could not be acted on",
			Subjects:          []string{DeadLetterSubjects},
			Retention:         jetstream.LimitsPolicy,
			Storage:           jetstream.FileStorage,
			Discard:           jetstream.DiscardOld,
			MaxAge:            age(o.DeadLettersMaxAge, 30*day),
			MaxMsgsPerSubject: deadLettersPerSubject,
			Duplicates:        eventDuplicates,
			AllowDirect:       true,
		},
	}
}

func (o ResourceOptions) buckets() []jetstream.KeyValueConfig {
	bucket := func(name, description string, history uint8) jetstream.KeyValueConfig {
		return jetstream.KeyValueConfig{
			Bucket:      name,
			Description: "zfleet: " + description,
			History:     history,
			Storage:     jetstream.FileStorage,
			// What allows a TTL for each key (ADR-48), and what tells watchers that a key has expired.
			LimitMarkerTTL: markerTTL,
		}
	}
	hosts := bucket(BucketHosts, "workers that are alive", 1)
	hosts.LimitMarkerTTL = HostMarkerTTL
	return []jetstream.KeyValueConfig{
		bucket(BucketJobs, "jobs as submitted", jobHistory),
		bucket(BucketPlans, "plans and their tasks", 1),
		bucket(BucketCursors, "replication cursors, a view", 1),
		hosts,
		bucket(BucketLeader, "the coordinator's lease", 1),
	}
}

func (o ResourceOptions) objects() jetstream.ObjectStoreConfig {
	quota := o.StreamsMaxBytes
	if quota <= 0 {
		quota = DefaultStreamsMaxBytes
	}
	return jetstream.ObjectStoreConfig{
		Bucket:      BucketStreams,
		Description: "zfleet: segments of the streams under way",
		MaxBytes:    quota,
		Storage:     o.StreamsStorage,
	}
}

// EnsureResources creates the streams and buckets, or updates them to what this program and the options ask for. It may
// run as often as one likes, and in several coordinators at once.
func EnsureResources(ctx context.Context, js jetstream.JetStream, options ResourceOptions) (*Resources, error) {
	for _, config := range options.streams() {
		if err := ensure(ctx, func(ctx context.Context) error { return ensureStream(ctx, js, config, options.Replicas) }); err != nil {
			return nil, NATSError("creating the stream "+config.Name, explainDenied(js.Conn(), "", err))
		}
	}
	for _, config := range options.buckets() {
		if err := ensure(ctx, func(ctx context.Context) error { return ensureBucket(ctx, js, config, options.Replicas) }); err != nil {
			return nil, NATSError("creating the bucket "+config.Bucket, explainDenied(js.Conn(), "", err))
		}
	}
	objects := options.objects()
	if err := ensure(ctx, func(ctx context.Context) error { return ensureObjects(ctx, js, objects, options.Replicas) }); err != nil {
		return nil, objectsError(objects, explainDenied(js.Conn(), "", err))
	}
	return OpenResources(ctx, js)
}

// ensure tries again where another coordinator did the same at the same moment.
func ensure(ctx context.Context, try func(context.Context) error) error {
	var err error
	for range ensureTries {
		_, err = asked(ctx, answerTimeout, func(ctx context.Context) (struct{}, error) { return struct{}{}, try(ctx) })
		raced := errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) || errors.Is(err, jetstream.ErrBucketExists) ||
			errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrBucketNotFound)
		if !raced || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// asked makes a request, and makes it again where no answer comes: what a cluster is asked while it chooses a leader may stay
// without one for ever.
func asked[T any](ctx context.Context, timeout time.Duration, request func(context.Context) (T, error)) (value T, err error) {
	for range ensureTries {
		bounded, cancel := context.WithTimeout(ctx, timeout)
		value, err = request(bounded)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return value, err
		}
	}
	return value, err
}

func ensureStream(ctx context.Context, js jetstream.JetStream, config jetstream.StreamConfig, replicas int) error {
	existing, replicas, err := existingConfig(ctx, js, config.Name, replicas)
	config.Replicas = replicas
	switch {
	case err != nil:
	case existing == nil:
		_, err = js.CreateStream(ctx, config)
	default:
		config.Placement = existing.Placement
		_, err = js.UpdateStream(ctx, config)
	}
	return err
}

func ensureBucket(ctx context.Context, js jetstream.JetStream, config jetstream.KeyValueConfig, replicas int) error {
	existing, replicas, err := existingConfig(ctx, js, "KV_"+config.Bucket, replicas)
	config.Replicas = replicas
	switch {
	case err != nil:
	case existing == nil:
		_, err = js.CreateKeyValue(ctx, config)
	default:
		config.Placement = existing.Placement
		_, err = js.UpdateKeyValue(ctx, config)
	}
	return err
}

func ensureObjects(ctx context.Context, js jetstream.JetStream, config jetstream.ObjectStoreConfig, replicas int) error {
	existing, replicas, err := existingConfig(ctx, js, "OBJ_"+config.Bucket, replicas)
	config.Replicas = replicas
	switch {
	case err != nil:
	case existing == nil:
		_, err = js.CreateObjectStore(ctx, config)
	default:
		config.Placement, config.Storage = existing.Placement, existing.Storage
		_, err = js.UpdateObjectStore(ctx, config)
	}
	return err
}

// objectsError is why the object store cannot be made; where NATS cannot set aside its quota, it says what an operator can do.
func objectsError(config jetstream.ObjectStoreConfig, err error) error {
	doing := "creating the bucket " + config.Bucket
	var api *jetstream.APIError
	if errors.As(err, &api) && (api.ErrorCode == storageResourcesExceeded || api.ErrorCode == memoryResourcesExceeded) {
		return Failf(Permanent, "%s: NATS has no room for its quota of %s: lower the quota (coordinator.streams.max_bytes), or let NATS"+
			" keep more (jetstream: max_file_store or max_memory_store, and free space on the disk): %w", doing,
			ByteSize(max(config.MaxBytes, 0)), err)
	}
	return NATSError(doing, err)
}

// existingConfig is the configuration of a stream that is there already, nil if it is not, with the replicas that it is to
// have: those asked for, or where none are, those that it has, or 1.
func existingConfig(
	ctx context.Context, js jetstream.JetStream, name string, replicas int,
) (*jetstream.StreamConfig, int, error) {
	stream, err := js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, max(replicas, 1), nil
	}
	if err != nil {
		return nil, 0, err
	}
	existing := stream.CachedInfo().Config
	if replicas == 0 {
		replicas = existing.Replicas
	}
	return &existing, replicas, nil
}

// OpenResources opens the streams and buckets that a coordinator has created. Where some are not there, its error is a
// *MissingResources that names them all.
func OpenResources(ctx context.Context, js jetstream.JetStream) (*Resources, error) {
	resources := &Resources{JetStream: js}
	missing := &MissingResources{}
	for name, stream := range map[string]*jetstream.Stream{
		StreamWork:        &resources.Work,
		StreamEvents:      &resources.Events,
		StreamDeadLetters: &resources.DeadLetters,
	} {
		var err error
		*stream, err = asked(ctx, answerTimeout, func(ctx context.Context) (jetstream.Stream, error) { return js.Stream(ctx, name) })
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			missing.Names = append(missing.Names, "stream "+name)
		case err != nil:
			return nil, NATSError("opening the stream "+name, explainDenied(js.Conn(), "", err))
		}
	}
	for name, bucket := range map[string]*jetstream.KeyValue{
		BucketJobs:    &resources.Jobs,
		BucketPlans:   &resources.Plans,
		BucketCursors: &resources.Cursors,
		BucketHosts:   &resources.Hosts,
		BucketLeader:  &resources.Leader,
	} {
		var err error
		*bucket, err = asked(ctx, answerTimeout, func(ctx context.Context) (jetstream.KeyValue, error) { return js.KeyValue(ctx, name) })
		switch {
		case errors.Is(err, jetstream.ErrBucketNotFound):
			missing.Names = append(missing.Names, "bucket "+name)
		case err != nil:
			return nil, NATSError("opening the bucket "+name, explainDenied(js.Conn(), "", err))
		}
	}
	var err error
	resources.Streams, err = asked(ctx, answerTimeout, func(ctx context.Context) (jetstream.ObjectStore, error) {
		return js.ObjectStore(ctx, BucketStreams)
	})
	switch {
	case errors.Is(err, jetstream.ErrBucketNotFound):
		missing.Names = append(missing.Names, "bucket "+BucketStreams)
	case err != nil:
		return nil, NATSError("opening the bucket "+BucketStreams, explainDenied(js.Conn(), "", err))
	}
	if len(missing.Names) > 0 {
		slices.Sort(missing.Names)
		return nil, missing
	}
	return resources, nil
}

// EnsureWorkConsumer creates or updates the durable pull consumer through which the host's workers take the items of one
// role. All workers of a host share it, each item goes to one of them at a time, and comes back when that worker has said
// nothing for ackWait (0 is DefaultAckWait). It may run as often as one likes, in several workers at once.
func EnsureWorkConsumer(
	ctx context.Context, js jetstream.JetStream, host Host, role Role, ackWait time.Duration,
) (jetstream.Consumer, error) {
	if err := host.Validate(); err != nil {
		return nil, err
	}
	if ackWait <= 0 {
		ackWait = DefaultAckWait
	}
	consumer, err := js.CreateOrUpdateConsumer(ctx, StreamWork, jetstream.ConsumerConfig{
		Durable:       WorkConsumer(host, role),
		Description:   fmt.Sprintf("zfleet: %s items for the workers of %s", role, host),
		FilterSubject: WorkSubject(host, role),
		DeliverPolicy: jetstream.DeliverAllPolicy, // the only one that a work queue allows
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       ackWait,
		MaxDeliver:    -1,
		MaxAckPending: maxAckPending,
	})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, &MissingResources{Names: []string{"stream " + StreamWork}}
	}
	if err != nil {
		return nil, NATSError(fmt.Sprintf("creating the consumer %s of %s", WorkConsumer(host, role), StreamWork),
			explainDenied(js.Conn(), "", err))
	}
	return consumer, nil
}

// Publish publishes to a stream and waits until the stream has the message. The stream keeps one of several messages with
// the same msgID (Nats-Msg-Id) within its window; the ack's Duplicate tells. An empty msgID is not de-duplicated. Without a
// deadline in ctx, the client's default of 5 seconds applies.
func Publish(ctx context.Context, js jetstream.JetStream, message *nats.Msg, msgID string) (*jetstream.PubAck, error) {
	var options []jetstream.PublishOpt
	if msgID != "" {
		options = append(options, jetstream.WithMsgID(msgID))
	}
	ack, err := js.PublishMsg(ctx, message, options...)
	if err != nil {
		return nil, NATSError("publishing to "+message.Subject, explainDenied(js.Conn(), message.Subject, err))
	}
	return ack, nil
}

// PublishWork publishes the work item and waits until the stream has it. Its answer is the item's sequence in the stream;
// an item that was published before keeps its first one.
func PublishWork(ctx context.Context, js jetstream.JetStream, item WorkItem) (uint64, error) {
	return publishMessage(ctx, js, WorkSubject(item.Host(), item.Role), item, item.MessageID())
}

// PublishEvent publishes the event and waits until the stream has it. Its answer is the event's sequence in the stream.
func PublishEvent(ctx context.Context, js jetstream.JetStream, event Event) (uint64, error) {
	return publishMessage(ctx, js, EventSubject(event), event, event.MessageID())
}

// PublishDeadLetter keeps a message that could not be acted on, without what is too large of it.
func PublishDeadLetter(ctx context.Context, js jetstream.JetStream, letter DeadLetter) error {
	_, err := publishMessage(ctx, js, DeadLetterSubject(letter.Reporter), letter.bounded(), "")
	return err
}

func publishMessage(ctx context.Context, js jetstream.JetStream, subject string, v any, msgID string) (uint64, error) {
	message, err := NewMessage(ctx, subject, v)
	if err != nil {
		return 0, err
	}
	ack, err := Publish(ctx, js, message, msgID)
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// PutTTL sets the key to the value for the given time, after which the key is gone and watchers see it deleted (ADR-43,
// ADR-48). The server counts whole seconds, so the time is rounded up to them. Where lastRevision is not nil, the key must
// still have that revision, and 0 means that it must not exist; otherwise the error is ErrRevision. The answer is the new
// revision.
func PutTTL(
	ctx context.Context, js jetstream.JetStream, bucket, key string, value []byte, ttl time.Duration, lastRevision *uint64,
) (uint64, error) {
	doing := fmt.Sprintf("setting %s in the bucket %s", key, bucket)
	if ttl <= 0 {
		return 0, Usagef("%s: a time to live of %s", doing, ttl)
	}
	ttl = (ttl + time.Second - 1).Truncate(time.Second)
	subject := "$KV." + bucket + "." + key
	target := subject
	if domain := js.Options().Domain; domain != "" {
		// Keys cross to another domain as part of its interface, as the client's own writes do; plain $KV subjects do not.
		target = "$JS." + domain + ".API." + subject
	}
	put := func(revision *uint64) (uint64, error) {
		options := []jetstream.PublishOpt{jetstream.WithMsgTTL(ttl)}
		if revision != nil {
			options = append(options, jetstream.WithExpectLastSequencePerSubject(*revision))
		}
		ack, err := js.PublishMsg(ctx, &nats.Msg{Subject: target, Header: nats.Header{}, Data: value}, options...)
		if err != nil {
			return 0, err
		}
		return ack.Sequence, nil
	}
	revision, err := put(lastRevision)
	if wrongRevision(err) && *lastRevision == 0 {
		// A key that was deleted or has expired may have left a marker, which has a revision of its own.
		var marker uint64
		marker, err = markerRevision(ctx, js, bucket, subject)
		if err != nil {
			return 0, NATSError(doing, err)
		}
		if marker == 0 {
			return 0, fmt.Errorf("%s: %w", doing, ErrRevision)
		}
		revision, err = put(&marker)
	}
	switch {
	case wrongRevision(err):
		return 0, fmt.Errorf("%s: %w", doing, ErrRevision)
	case err != nil:
		return 0, NATSError(doing, explainDenied(js.Conn(), target, err))
	}
	return revision, nil
}

// storedMessage is the answer to a request for a message of a stream (ADR-31 has the request; the client's own method keeps
// what it asks, a leader or any replica, to itself).
type storedMessage struct {
	Error   *jetstream.APIError `json:"error"`
	Message struct {
		Sequence uint64 `json:"seq"`
		Header   []byte `json:"hdrs"`
		Data     []byte `json:"data"`
	} `json:"message"`
}

// GetKey is the value of the key in the bucket, and its revision. It asks the bucket's leader, which has every write that was
// acknowledged; the client's own methods ask any replica, which may not have heard of it yet. The error is
// jetstream.ErrKeyNotFound where there is none, and permanent, beside the revision, where the value was not written by somebody
// who may write it, but passed on there by a direct get (see ReadMessage): the client's own methods do not tell.
func GetKey(ctx context.Context, js jetstream.JetStream, bucket, key string) (value []byte, revision uint64, err error) {
	doing := fmt.Sprintf("reading %s in the bucket %s", key, bucket)
	prefix := "$JS.API."
	if domain := js.Options().Domain; domain != "" {
		prefix = "$JS." + domain + ".API."
	}
	subject := prefix + "STREAM.MSG.GET.KV_" + bucket
	request, err := json.Marshal(map[string]string{"last_by_subj": "$KV." + bucket + "." + key})
	if err != nil {
		return nil, 0, err
	}
	reply, err := asked(ctx, readTimeout, func(ctx context.Context) (*nats.Msg, error) {
		reply, err := js.Conn().RequestWithContext(ctx, subject, request)
		return reply, explainDenied(js.Conn(), subject, err)
	})
	if err != nil {
		return nil, 0, NATSError(doing, err)
	}
	var stored storedMessage
	if err := json.Unmarshal(reply.Data, &stored); err != nil {
		return nil, 0, Failf(Transient, "%s: NATS answers what cannot be read: %w", doing, err)
	}
	var header nats.Header
	if len(stored.Message.Header) > 0 {
		if header, err = nats.DecodeHeadersMsg(stored.Message.Header); err != nil {
			return nil, 0, Failf(Permanent, "%s: its header cannot be read: %w", doing, err)
		}
	}
	switch revision = stored.Message.Sequence; {
	case stored.Error != nil && stored.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound,
		header.Get("KV-Operation") != "", header.Get("Nats-Marker-Reason") != "":
		return nil, 0, jetstream.ErrKeyNotFound
	case stored.Error != nil:
		return nil, 0, NATSError(doing, stored.Error)
	case PassedOn(header) != "":
		return nil, revision, Failf(Permanent, "%s: the value was not written there, but passed on from the stream %s: find out who did that, and"+
			" remove it with: nats kv del %s %s", doing, PassedOn(header), bucket, key)
	case revision == 0:
		return nil, 0, Failf(Transient, "%s: NATS does not tell its revision", doing)
	}
	return stored.Message.Data, revision, nil
}

func wrongRevision(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
		api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

// markerRevision is the revision of the marker that says that the key is gone; 0 where the key has a value.
func markerRevision(ctx context.Context, js jetstream.JetStream, bucket, subject string) (uint64, error) {
	stream, err := js.Stream(ctx, "KV_"+bucket)
	if err != nil {
		return 0, err
	}
	last, err := stream.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil // gone in this moment, with its marker
	}
	if err != nil {
		return 0, err
	}
	if last.Header.Get("KV-Operation") == "" && last.Header.Get("Nats-Marker-Reason") == "" {
		return 0, nil
	}
	return last.Sequence, nil
}
