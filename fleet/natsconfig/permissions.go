// Permissions: what each role does, in subjects.

package natsconfig

import (
	"slices"

	"github.com/zfleet/zfleet/protocol"
)

// Permissions are what a user may do.
type Permissions struct {
	// Publish and Subscribe are the subjects, with wildcards, that are allowed; all others are denied.
	Publish, Subscribe []string
	// Delivered are the subjects of messages that consumers deliver to the user's inboxes. They need no permission but for a leaf
	// node, which lets through only what its user may hear.
	Delivered []string
}

// user is who the permissions are for.
type user struct {
	// key is the public key.
	key string
	// prefixes begin the subjects of the JetStream API as the user may write them.
	prefixes []string
}

const ownAPI = "$JS.API."

// userOf makes the user with the public key. A JetStream domain can be named by all, and must be behind a leaf node.
func userOf(key, domain string, behindLeaf bool) user {
	var prefixes []string
	if !behindLeaf {
		prefixes = append(prefixes, ownAPI)
	}
	if domain != "" {
		prefixes = append(prefixes, "$JS."+domain+".API.")
	}
	return user{key: key, prefixes: prefixes}
}

// inbox is where the user hears answers.
func (u user) inbox() string { return protocol.InboxPrefix(u.key) + ".>" }

// api are the subjects of the given parts of the JetStream API.
func (u user) api(parts ...string) []string {
	var subjects []string
	for _, prefix := range u.prefixes {
		for _, part := range parts {
			subjects = append(subjects, prefix+part)
		}
	}
	return subjects
}

// keys are the subjects to write the keys of a bucket at. Through a domain, writing is a part of its API.
func (u user) keys(bucket string, keys ...string) []string {
	var subjects []string
	for _, key := range keys {
		subject := "$KV." + bucket + "." + key
		for _, prefix := range u.prefixes {
			if prefix == ownAPI {
				subjects = append(subjects, subject)
			} else {
				subjects = append(subjects, prefix+subject)
			}
		}
	}
	return subjects
}

// open is what opening the fleet's streams and buckets takes.
func (u user) open() []string {
	parts := []string{"INFO"}
	for _, stream := range allStreams() {
		parts = append(parts, "STREAM.INFO."+stream)
	}
	return u.api(parts...)
}

// read is what reading a stream takes: single messages, and in order through consumers that live as long as their reader.
func (u user) read(streams ...string) []string {
	var subjects []string
	for _, stream := range streams {
		subjects = append(subjects, u.api(
			"STREAM.MSG.GET."+stream, "DIRECT.GET."+stream, "DIRECT.GET."+stream+".>",
			"CONSUMER.CREATE."+stream+".>", "CONSUMER.INFO."+stream+".*", "CONSUMER.MSG.NEXT."+stream+".*",
			"CONSUMER.DELETE."+stream+".*",
		)...)
		subjects = append(subjects, flowControl(stream)...)
	}
	return subjects
}

// flowControl is where readers of a stream answer the server's flow control. The second form is that of servers with the
// feature js_ack_fc_v2: it begins with a domain and an account.
func flowControl(stream string) []string {
	return []string{"$JS.FC." + stream + ".>", "$JS.FC.*.*." + stream + ".>"}
}

// acknowledge is where messages that a consumer has delivered are acknowledged, in both forms.
func acknowledge(stream, consumer string) []string {
	return []string{"$JS.ACK." + stream + "." + consumer + ".>", "$JS.ACK.*.*." + stream + "." + consumer + ".>"}
}

func bucketStream(bucket string) string { return "KV_" + bucket }

// allStreams are all streams of the fleet, those behind buckets included.
func allStreams() []string {
	streams := []string{protocol.StreamWork, protocol.StreamEvents, protocol.StreamDeadLetters}
	for _, bucket := range []string{
		protocol.BucketJobs, protocol.BucketPlans, protocol.BucketCursors, protocol.BucketHosts, protocol.BucketLeader,
	} {
		streams = append(streams, bucketStream(bucket))
	}
	return append(streams, protocol.StreamsStream)
}

// readable are the streams that operators may read: all but the work items, which only consumers of the workers take, and the
// segments of streams.
func readable() []string {
	return slices.DeleteFunc(allStreams(), func(stream string) bool {
		return stream == protocol.StreamWork || stream == protocol.StreamsStream
	})
}

// WorkerPermissions are those of the workers of a host, who share the user with the public key. domain is the JetStream domain of
// the fleet, if it has one; behindLeaf says that the host reaches the fleet through a leaf node.
func WorkerPermissions(host protocol.Host, key, domain string, behindLeaf bool) Permissions {
	u := userOf(key, domain, behindLeaf)
	publish := u.open()
	for _, role := range []protocol.Role{protocol.RoleSend, protocol.RoleRecv} {
		consumer := protocol.WorkConsumer(host, role)
		publish = append(publish, u.api(
			"CONSUMER.CREATE."+protocol.StreamWork+"."+consumer+"."+protocol.WorkSubject(host, role),
			"CONSUMER.INFO."+protocol.StreamWork+"."+consumer,
			"CONSUMER.MSG.NEXT."+protocol.StreamWork+"."+consumer,
		)...)
		publish = append(publish, acknowledge(protocol.StreamWork, consumer)...)
	}
	jobs := bucketStream(protocol.BucketJobs)
	publish = append(publish, "zfleet.event."+string(host)+".>", protocol.DeadLetterSubject(string(host)))
	publish = append(publish, "_INBOX.*.host."+string(host)+".*") // answers to who asks it
	publish = append(publish, u.keys(protocol.BucketHosts, string(host)+".*")...)
	publish = append(publish, "zfleet.stream.*.*") // to whom it streams
	publish = append(publish, u.api(               // changed limits of jobs, and cancelled plans
		"CONSUMER.CREATE."+jobs+".*.$KV."+protocol.BucketJobs+".>", "CONSUMER.DELETE."+jobs+".*", "CONSUMER.INFO."+jobs+".*",
		"DIRECT.GET."+bucketStream(protocol.BucketPlans)+".$KV."+protocol.BucketPlans+".*."+string(protocol.PlanKeyCancel),
	)...)
	publish = append(publish, flowControl(jobs)...)
	publish = append(publish, "$O."+protocol.BucketStreams+".>")
	publish = append(publish, u.api("DIRECT.GET."+protocol.StreamsStream, "DIRECT.GET."+protocol.StreamsStream+".>",
		"STREAM.PURGE."+protocol.StreamsStream)...)
	subscribe := []string{
		u.inbox(), "zfleet.rpc." + string(host) + ".*", "zfleet.stream." + string(host) + ".*", protocol.CancelSubjects,
	}
	for _, verb := range []string{"PING", "INFO", "STATS"} { // what every micro service answers (ADR-32)
		subscribe = append(subscribe, "$SRV."+verb, "$SRV."+verb+".zfleet-worker", "$SRV."+verb+".zfleet-worker.*")
	}
	return Permissions{
		Publish: publish, Subscribe: subscribe,
		Delivered: []string{"zfleet.work." + string(host) + ".*", "$KV." + protocol.BucketJobs + ".>"},
	}
}

// CoordinatorPermissions are those of a coordinator.
func CoordinatorPermissions(key, domain string, behindLeaf bool) Permissions {
	u := userOf(key, domain, behindLeaf)
	publish := u.open()
	for _, stream := range allStreams() {
		publish = append(publish, u.api("STREAM.CREATE."+stream, "STREAM.UPDATE."+stream)...)
	}
	publish = append(publish, u.read(readable()...)...)
	publish = append(publish, u.api(
		"STREAM.MSG.DELETE."+protocol.StreamWork, "STREAM.MSG.GET."+protocol.StreamWork, "DIRECT.GET."+protocol.StreamWork+".>",
		"DIRECT.GET."+protocol.StreamWork,
		"STREAM.PURGE."+bucketStream(protocol.BucketPlans),
		"STREAM.PURGE."+protocol.StreamsStream, "DIRECT.GET."+protocol.StreamsStream+".>",
	)...)
	publish = append(publish, protocol.WorkSubjects, protocol.CancelSubjects, protocol.DeadLetterSubject("coordinator"))
	publish = append(publish, u.keys(protocol.BucketPlans, "*."+string(protocol.PlanKeyHead), "*."+string(protocol.PlanKeyTask)+".*")...)
	publish = append(publish, u.keys(protocol.BucketCursors, ">")...)
	publish = append(publish, u.keys(protocol.BucketLeader, protocol.LeaderKey)...)
	for _, verb := range []string{protocol.VerbInventory, protocol.VerbEstimate} {
		publish = append(publish, "zfleet.rpc.*."+verb)
	}
	return Permissions{
		Publish: publish, Subscribe: []string{u.inbox()}, Delivered: []string{protocol.EventSubjects, "$KV.>"},
	}
}

// OperatorPermissions are those of who runs zctl's commands, or, with readOnly, only those that look.
func OperatorPermissions(key, domain string, readOnly bool) Permissions {
	u := userOf(key, domain, false)
	publish := append(u.open(), u.read(readable()...)...)
	if readOnly {
		publish = append(publish, "zfleet.rpc.*."+protocol.VerbAbstractions)
		return Permissions{Publish: publish, Subscribe: []string{u.inbox()}}
	}
	publish = append(publish, u.keys(protocol.BucketJobs, ">")...)
	publish = append(publish, u.keys(protocol.BucketPlans, "*."+string(protocol.PlanKeyRequest), "*."+string(protocol.PlanKeyCancel))...)
	publish = append(publish, "zfleet.rpc.*.*")
	publish = append(publish, protocol.WorkSubjects, protocol.EventSubjects) // dead letters that are published again
	publish = append(publish, u.api("STREAM.MSG.DELETE."+protocol.StreamDeadLetters)...)
	return Permissions{Publish: publish, Subscribe: []string{u.inbox()}}
}

// together is what a leaf node may for all of them.
func together(all ...Permissions) Permissions {
	var sum Permissions
	for _, one := range all {
		sum.Publish = append(sum.Publish, one.Publish...)
		sum.Subscribe = append(append(sum.Subscribe, one.Subscribe...), one.Delivered...)
	}
	sum.Publish, sum.Subscribe = unique(sum.Publish), unique(sum.Subscribe)
	return sum
}

func unique(subjects []string) []string {
	slices.Sort(subjects)
	return slices.Compact(subjects)
}
