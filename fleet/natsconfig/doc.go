// Package natsconfig writes the configuration of the NATS servers of a fleet, and the keys of all who connect to them, from a fleet
// file: who there is, and where the servers are.
//
// The fleet is one NATS account. Every host, coordinator and operator is a user of it with an NKey of its own and with permissions
// that say what its role needs and nothing else:
//
//	role                 may
//	worker of a host     take and acknowledge the host's own work items; tell the host's own events, presence and dead letters;
//	                     answer what the host is asked; talk with the workers at the other end of its streams; store and remove
//	                     segments of streams
//	coordinator          make the streams and buckets; plan, publish and withdraw work items, tell cancellations; write plans,
//	                     cursors and the lease; ask hosts for inventories and estimates; collect what crashed senders have left
//	operator             submit jobs, ask for plans and their end; ask hosts for all that hosts answer; read everything but segments;
//	                     publish dead letters again, and drop them
//	operator, read_only  read everything but segments
//	leaf node            what the hosts behind it may, together
//
// [WorkerPermissions] and its siblings say it in subjects. docs/security.md says what it protects from, and what it cannot.
//
// Answers reach each user at inboxes of its own ([protocol.InboxPrefix]), so nobody hears another's answers.
//
// Nothing is ever read from a server: [Generate] makes files, which the operator puts where they belong. Keys that are there are
// kept, so that running it again changes only what follows from changes of the fleet file.
package natsconfig
