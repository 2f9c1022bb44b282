// Package remote runs commands on other machines over SSH.
package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"time"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/infer"
	"github.com/pulumi/pulumi/sdk/v3/go/common/util/retry"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"openstack-ha-api/toolchain/command/lifecycle"
)

// The defaults are part of a resource's state: they must be the published plugin's, or a stack would show changes
// when it moves from one plugin to the other.
const (
	defaultUser           = "root"
	defaultPort           = 22
	defaultDialErrorLimit = 10
	defaultPerDialTimeout = 15

	// noDialErrorLimit retries forever, or until the resource's custom timeout.
	noDialErrorLimit = -1
)

// Endpoint says how to log in to one machine.
type Endpoint struct {
	User               *string  `pulumi:"user,optional"`
	Password           *string  `pulumi:"password,optional"           provider:"secret"`
	Host               *string  `pulumi:"host"`
	Port               *float64 `pulumi:"port,optional"`
	PrivateKey         *string  `pulumi:"privateKey,optional"         provider:"secret"`
	PrivateKeyPassword *string  `pulumi:"privateKeyPassword,optional" provider:"secret"`
	AgentSocketPath    *string  `pulumi:"agentSocketPath,optional"`
	// DialErrorLimit is how many attempts may fail before one more failure is final.
	DialErrorLimit *int `pulumi:"dialErrorLimit,optional"`
	// PerDialTimeout is in seconds; 0 is no limit.
	PerDialTimeout *int    `pulumi:"perDialTimeout,optional"`
	HostKey        *string `pulumi:"hostKey,optional"`
}

// Annotate sets the defaults.
func (e *Endpoint) Annotate(a infer.Annotator) {
	a.SetDefault(&e.User, defaultUser)
	a.SetDefault(&e.Port, defaultPort)
	a.SetDefault(&e.DialErrorLimit, defaultDialErrorLimit)
	a.SetDefault(&e.PerDialTimeout, defaultPerDialTimeout)
}

// Connection is an endpoint and, optionally, the bastion in front of it.
type Connection struct {
	Endpoint
	Proxy *ProxyConnection `pulumi:"proxy,optional"`
}

// ProxyConnection is a bastion.
type ProxyConnection struct {
	Endpoint
}

// Dial logs in, through the bastion if there is one. It retries after any failure, including a refused login or host
// key: while cloud-init runs, both are refused for a while. It gives up when more than DialErrorLimit attempts have
// failed or ctx ends; the error then includes the last attempt's.
func (c *Connection) Dial(ctx context.Context) (*ssh.Client, error) {
	config, err := c.clientConfig()
	if err != nil {
		return nil, err
	}
	direct := (&net.Dialer{}).DialContext
	if c.Proxy == nil {
		return c.retry(ctx, "Dial", func() (*ssh.Client, error) { return c.login(ctx, config, direct) })
	}
	proxyConfig, err := c.Proxy.clientConfig()
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	return c.retry(ctx, "Dial", func() (*ssh.Client, error) {
		// Each attempt has its own connection to the bastion, so that a broken one is not reused.
		bastion, err := c.Proxy.retry(ctx, "Dial proxy", func() (*ssh.Client, error) {
			return c.Proxy.login(ctx, proxyConfig, direct)
		})
		if err != nil {
			return nil, &finalError{fmt.Errorf("proxy: %w", err)}
		}
		return c.login(ctx, config, func(ctx context.Context, network, address string) (net.Conn, error) {
			connection, err := bastion.DialContext(ctx, network, address)
			if err != nil {
				_ = bastion.Close()
				return nil, err
			}
			return &tunnel{connection, bastion}, nil
		})
	})
}

// tunnel is a connection through a bastion of its own.
type tunnel struct {
	net.Conn
	bastion *ssh.Client
}

// Close closes the connection to the bastion. Closing only what goes through it would wait for the bastion's answer, which
// never comes if that has died.
func (t *tunnel) Close() error { return t.bastion.Close() }

// finalError is a failure that another attempt cannot fix.
type finalError struct{ error }

func (f *finalError) Unwrap() error { return f.error }

// retry calls dial until it succeeds, pausing as Pulumi's retry package does: 0.1 s at first, up to 5 s.
func (e *Endpoint) retry(ctx context.Context, what string, dial func() (*ssh.Client, error)) (*ssh.Client, error) {
	limit := defaultDialErrorLimit
	if e.DialErrorLimit != nil {
		limit = *e.DialErrorLimit
	}
	shownLimit := strconv.Itoa(limit)
	if limit == noDialErrorLimit {
		shownLimit = "inf"
	}
	failures := 0
	var last error
	ok, client, err := retry.Until(ctx, retry.Acceptor{
		Accept: func(int, time.Duration) (bool, any, error) {
			client, err := dial()
			if err == nil {
				return true, client, nil
			}
			if final := (*finalError)(nil); errors.As(err, &final) {
				return false, nil, final.error
			}
			if ctx.Err() != nil && last != nil {
				return false, nil, nil // it failed because time is up, which says nothing about the host
			}
			failures++
			last = err
			if limit > noDialErrorLimit && failures > limit {
				return false, nil, fmt.Errorf("after %d failed attempts: %w", failures, err)
			}
			p.GetLogger(ctx).InfoStatusf("%s %d/%s failed: retrying (%v)", what, failures, shownLimit, err)
			return false, nil, nil
		},
	})
	switch {
	case ok:
		return client.(*ssh.Client), nil
	case err != nil:
		return nil, err
	default:
		return nil, fmt.Errorf("%w after %d failed attempts, the last one: %w", lifecycle.Stopped(ctx), failures, last)
	}
}

// login connects to e with dial and logs in, all within PerDialTimeout.
func (e *Endpoint) login(
	ctx context.Context,
	config *ssh.ClientConfig,
	dial func(ctx context.Context, network, address string) (net.Conn, error),
) (*ssh.Client, error) {
	limit := defaultPerDialTimeout
	if e.PerDialTimeout != nil {
		limit = *e.PerDialTimeout
	}
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(limit)*time.Second,
			fmt.Errorf("no SSH login within %d s (perDialTimeout)", limit))
		defer cancel()
	}
	fail := func(err error) (*ssh.Client, error) {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		// This means that the host has no key of the pinned type.
		if refusal := (*ssh.AlgorithmNegotiationError)(nil); errors.As(err, &refusal) && refusal.What == "host key" {
			err = fmt.Errorf("host key mismatch: hostKey pins a key that the host does not have: %w", err)
		}
		return nil, fmt.Errorf("cannot log in to %s as %s: %w", e.address(), config.User, err)
	}

	connection, err := dial(ctx, "tcp", e.address())
	if err != nil {
		return fail(err)
	}
	// A host may accept a connection and then send nothing; closing the connection ends the handshake.
	stop := context.AfterFunc(ctx, func() { _ = connection.Close() })
	sshConnection, channels, requests, err := ssh.NewClientConn(connection, e.address(), config)
	if err != nil || !stop() {
		_ = connection.Close()
		return fail(err)
	}
	return ssh.NewClient(sshConnection, channels, requests), nil
}

// address is e's host and port in the net package's format.
func (e *Endpoint) address() string {
	port := float64(defaultPort)
	if e.Port != nil {
		port = *e.Port
	}
	return net.JoinHostPort(*e.Host, strconv.Itoa(int(port)))
}

// clientConfig says how e logs in and which host key it accepts. Its errors never quote a key or a password.
func (e *Endpoint) clientConfig() (*ssh.ClientConfig, error) {
	config := &ssh.ClientConfig{User: defaultUser}
	if e.User != nil {
		config.User = *e.User
	}
	if e.HostKey == nil {
		config.HostKeyCallback = ssh.InsecureIgnoreHostKey()
	} else {
		pinned, _, _, _, err := ssh.ParseAuthorizedKey([]byte(*e.HostKey))
		if err != nil {
			return nil, fmt.Errorf("hostKey of %s is not a public key such as \"ssh-ed25519 AAAA...\": %w", *e.Host, err)
		}
		config.HostKeyCallback = acceptOnly(pinned)
		config.HostKeyAlgorithms = signatureAlgorithms(pinned)
	}

	if e.PrivateKey != nil {
		signer, err := e.signer()
		if err != nil {
			return nil, fmt.Errorf("privateKey for %s cannot be used: %w", *e.Host, err)
		}
		config.Auth = append(config.Auth, ssh.PublicKeys(signer))
	}
	if e.Password != nil {
		answer := func(_, _ string, questions []string, _ []bool) ([]string, error) {
			return slices.Repeat([]string{*e.Password}, len(questions)), nil
		}
		config.Auth = append(config.Auth, ssh.Password(*e.Password), ssh.KeyboardInteractive(answer))
	}
	socket := os.Getenv("SSH_AUTH_SOCK")
	if e.AgentSocketPath != nil {
		socket = *e.AgentSocketPath
	}
	if socket != "" {
		config.Auth = append(config.Auth, ssh.PublicKeysCallback(func() ([]ssh.Signer, error) {
			connection, err := net.Dial("unix", socket)
			if err != nil {
				return nil, fmt.Errorf("SSH agent: %w", err)
			}
			return agent.NewClient(connection).Signers()
		}))
	}
	return config, nil
}

func (e *Endpoint) signer() (ssh.Signer, error) {
	if e.PrivateKeyPassword != nil {
		return ssh.ParsePrivateKeyWithPassphrase([]byte(*e.PrivateKey), []byte(*e.PrivateKeyPassword))
	}
	return ssh.ParsePrivateKey([]byte(*e.PrivateKey))
}

// acceptOnly refuses every host key but pinned, and says which key was offered.
func acceptOnly(pinned ssh.PublicKey) ssh.HostKeyCallback {
	return func(_ string, _ net.Addr, offered ssh.PublicKey) error {
		if bytes.Equal(offered.Marshal(), pinned.Marshal()) {
			return nil
		}
		return fmt.Errorf("host key mismatch: the host offers %s %s, but hostKey pins %s %s",
			offered.Type(), ssh.FingerprintSHA256(offered), pinned.Type(), ssh.FingerprintSHA256(pinned))
	}
}

// signatureAlgorithms are those with which a host can prove that it owns key. Without this list, a host with keys of
// several types might offer one of another type.
func signatureAlgorithms(key ssh.PublicKey) []string {
	if key.Type() == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{key.Type()}
}

// secrets are the values that must not appear in a message.
func (c *Connection) secrets() []string {
	endpoints := []*Endpoint{&c.Endpoint}
	if c.Proxy != nil {
		endpoints = append(endpoints, &c.Proxy.Endpoint)
	}
	var values []string
	for _, endpoint := range endpoints {
		for _, value := range []*string{endpoint.Password, endpoint.PrivateKey, endpoint.PrivateKeyPassword} {
			if value != nil {
				values = append(values, *value)
			}
		}
	}
	return values
}
