// Certificates: each listener makes its own, and senders know it by its fingerprint.

package tcp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// applicationProtocol is negotiated by ALPN (RFC 7301): a TLS client or server of another kind is turned away in the
// handshake.
const applicationProtocol = "zfleet/1"

var (
	errFingerprint = errors.New("the certificate is not that of the offer: its worker has restarted since, " +
		"or another machine answers at this address")
	errNoALPN = errors.New("the TLS peer does not speak " + applicationProtocol)
)

// newCertificate makes a self-signed certificate with a new ECDSA P-256 key, and its SHA-256 fingerprint. Neither leaves
// the process's memory. The dates mean nothing to our own senders, which only look at the fingerprint.
func newCertificate() (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("making the data channel's key: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "zfleet data channel"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.AddDate(100, 0, 0),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("making the data channel's certificate: %w", err)
	}
	fingerprint := sha256.Sum256(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, fingerprint[:], nil
}

func serverTLS(certificate tls.Certificate) *tls.Config {
	return &tls.Config{
		Certificates:                []tls.Certificate{certificate},
		MinVersion:                  tls.VersionTLS13,
		NextProtos:                  []string{applicationProtocol},
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
		VerifyConnection:            verifyALPN,
	}
}

// clientTLS trusts the one certificate with the given fingerprint, whatever names and dates it bears.
func clientTLS(fingerprint []byte) *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		NextProtos:                  []string{applicationProtocol},
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
		InsecureSkipVerify:          true, //nolint:gosec // VerifyConnection pins the certificate instead
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return errFingerprint
			}
			theirs := sha256.Sum256(state.PeerCertificates[0].Raw)
			if subtle.ConstantTimeCompare(theirs[:], fingerprint) != 1 {
				return errFingerprint
			}
			return verifyALPN(state)
		},
	}
}

func verifyALPN(state tls.ConnectionState) error {
	if state.NegotiatedProtocol != applicationProtocol {
		return errNoALPN
	}
	return nil
}
