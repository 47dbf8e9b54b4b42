// Datasets: filesystems and volumes, with the properties that planning needs.

package zfs

// DatasetType tells filesystems from volumes, in the words of the zfs command's type column.
type DatasetType string

// The types of datasets.
const (
	Filesystem DatasetType = "filesystem"
	Volume     DatasetType = "volume"
)

// Dataset is a filesystem or a volume as [System.List] found it.
type Dataset struct {
	Name      string
	Type      DatasetType
	GUID      uint64
	CreateTXG uint64

	// Used and Referenced are in bytes.
	Used, Referenced uint64

	// Origin is the full name of the snapshot that a clone was made from, else empty.
	Origin string

	// Mounted is false for volumes.
	Mounted bool

	// Encryption is "off" or the cipher suite, such as "aes-256-gcm". EncryptionRoot and KeyStatus are empty where the
	// dataset is not encrypted; else KeyStatus is "available" or "unavailable".
	Encryption, EncryptionRoot, KeyStatus string

	// ReceiveResumeToken is the token of a partially received state, or empty.
	ReceiveResumeToken string

	// Placeholder is true where the user property zrepl:placeholder is "on" and was set on this very dataset, not inherited.
	Placeholder bool

	// SnapshotsChanged is when a snapshot was last made or destroyed, in seconds since the epoch; 0 where the property
	// does not exist (before OpenZFS 2.2) or was never set.
	SnapshotsChanged uint64

	// Versions are ordered by createtxg, and bookmarks come before the snapshot of the same createtxg. Empty when the
	// query did not ask for versions.
	Versions []Version
}

// Encrypted is true where the dataset is natively encrypted.
func (d Dataset) Encrypted() bool { return d.Encryption != "" && d.Encryption != "off" }

// Version finds the version with the type and name.
func (d Dataset) Version(versionType VersionType, name string) (Version, bool) {
	for _, v := range d.Versions {
		if v.Type == versionType && v.Name == name {
			return v, true
		}
	}
	return Version{}, false
}
