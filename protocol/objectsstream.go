// The object store as a way: what the two sides of a stream say to each other about its segments.

package protocol

// ObjectsStream is where a receiver finds the segments of a stream.
type ObjectsStream struct {
	// Name begins the names of the stream's segments in the object store.
	Name string `msgpack:"name"`
	// Subject is where the sender listens for what the receiver says of the stream.
	Subject string `msgpack:"subject"`
}

func (o ObjectsStream) validate(ref StepRef) error {
	if o.Name == "" || o.Subject == "" {
		return Usagef("call for step %s: the stream in the object store has no name, or no subject to answer to", ref)
	}
	return nil
}
