// Names of datasets, as far as jobs are concerned. A worker checks them again, by all the rules of its OpenZFS.

package protocol

import "regexp"

// maxDatasetLength is the longest name in bytes (ZFS_MAX_DATASET_NAME_LEN, less its NUL).
const maxDatasetLength = 255

// datasetPattern is the characters and components of entity_namecheck (OpenZFS, module/zcommon/zfs_namecheck.c).
var datasetPattern = regexp.MustCompile(`^[-a-zA-Z0-9_.: ]+(/[-a-zA-Z0-9_.: ]+)*$`)

func isDatasetName(name string) bool {
	return len(name) <= maxDatasetLength && datasetPattern.MatchString(name)
}

// propertyPattern is the names of native and of user properties (zfsprops(7)).
var propertyPattern = regexp.MustCompile(`^[a-z0-9:._-]{1,255}$`)
