// Requests to a host's workers: inventory and estimate.

package protocol

// Dataset is a filesystem or volume with its versions, as a host's inventory reports it.
type Dataset struct {
	Name string `msgpack:"n" json:"name"`
	// Volume says that it is a volume and no filesystem.
	Volume bool   `msgpack:"v,omitempty" json:"volume,omitempty"`
	GUID   uint64 `msgpack:"g" json:"guid,string"`
	// Encrypted says that it is natively encrypted.
	Encrypted bool `msgpack:"e,omitempty" json:"encrypted,omitempty"`
	// Placeholder says that it was created only to hold a replicated child.
	Placeholder bool `msgpack:"p,omitempty" json:"placeholder,omitempty"`
	// Origin is the snapshot that it is a clone of; empty where it is no clone.
	Origin string `msgpack:"o,omitempty" json:"origin,omitempty"`
	// Resume is its partially received state, if it has one.
	Resume *ResumeState `msgpack:"r,omitempty" json:"resume,omitempty"`
	// Versions are in order of createtxg; a bookmark comes before the snapshot of the same createtxg.
	Versions []Version `msgpack:"s,omitempty" json:"versions,omitempty"`
}

// ResumeState is what a resume token says.
type ResumeState struct {
	ToGUID   uint64 `msgpack:"to" json:"to_guid,string"`
	FromGUID uint64 `msgpack:"from,omitempty" json:"from_guid,string,omitempty"`
	ToName   string `msgpack:"name" json:"to_name"`
	Bytes    uint64 `msgpack:"bytes" json:"bytes"`
	// Token is the token itself.
	Token string `msgpack:"token,omitempty" json:"-"`
	// Unreadable says why the token could not be decoded; the other fields are then empty.
	Unreadable string `msgpack:"unreadable,omitempty" json:"unreadable,omitempty"`
}

// InventoryRequest asks a host for datasets.
type InventoryRequest struct {
	// Roots are listed with all that is below them; empty lists all pools.
	Roots []string `msgpack:"roots,omitempty"`
	// Exact lists only the roots themselves.
	Exact bool `msgpack:"exact,omitempty"`
	// Filter keeps the datasets it has in; nil keeps all.
	Filter Filter `msgpack:"filter,omitempty"`
	// PageBytes bounds the encoded size of a page; 0 leaves it to the worker.
	PageBytes int `msgpack:"page_bytes,omitempty"`
}

// InventoryPage is one of the replies to an InventoryRequest. The pages of one reply are numbered from 0 and come in
// order; datasets are in order of name, parents before children, and a dataset with more versions than fit into one page
// is continued in the next (same name, further versions).
type InventoryPage struct {
	Number   int       `msgpack:"number"`
	Datasets []Dataset `msgpack:"datasets,omitempty"`
	// Missing are requested roots that do not exist; on the last page.
	Missing []string `msgpack:"missing,omitempty"`
	// Last says that no page follows.
	Last    bool     `msgpack:"last,omitempty"`
	Failure *Failure `msgpack:"failure,omitempty"`
}

// EstimateRequest asks a sender for the size of steps, in bytes.
type EstimateRequest struct {
	Steps []Step      `msgpack:"steps"`
	Send  SendOptions `msgpack:"send"`
}

// EstimateReply has one size for each step asked for, in order; 0 where it could not be found out.
type EstimateReply struct {
	Bytes   []uint64 `msgpack:"bytes"`
	Failure *Failure `msgpack:"failure,omitempty"`
}
