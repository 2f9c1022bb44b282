package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

func TestCreateRunsTheCommandOnceAndKeepsItsOutput(t *testing.T) {
	server := newServer(t).Start(t)
	step := newEngine(t, remoteCommand)
	require.NoError(t, step.create(inputs{
		"connection": server.connection(nil), "create": "echo out; echo err >&2", "delete": "true",
	}, 0))
	assert.Equal(t, []string{"echo out; echo err >&2"}, server.Commands())
	assert.Equal(t, "out", step.output("stdout"))
	assert.Equal(t, "err", step.output("stderr"))
	assert.Regexp(t, "^step[0-9a-f]{8}$", step.id)
}

func TestConnectionIsASecretInInputsAndState(t *testing.T) {
	server := newServer(t).Start(t)
	step := newEngine(t, remoteCommand)
	require.NoError(t, step.create(inputs{"connection": server.connection(nil), "create": "true"}, 0))
	assert.True(t, step.old.Get("connection").Secret())
	assert.True(t, step.state.Get("connection").Secret())
}

func TestStdinIsDelivered(t *testing.T) {
	server := newServer(t).Start(t)
	step := newEngine(t, remoteCommand)
	text := "first line\nsecond $(line) 'with' \"quotes\"\n"
	require.NoError(t, step.create(inputs{"connection": server.connection(nil), "create": "cat", "stdin": text}, 0))
	assert.Equal(t, text[:len(text)-1], step.output("stdout"))
}

func TestWithoutStdinTheCommandReadsNothing(t *testing.T) {
	server := newServer(t).Start(t)
	step := newEngine(t, remoteCommand)
	require.NoError(t, step.create(inputs{"connection": server.connection(nil), "create": "cat"}, 10))
	assert.Empty(t, step.output("stdout"))
}

func TestPreviewRunsNothing(t *testing.T) {
	server := newServer(t).Start(t)
	step := newEngine(t, remoteCommand)
	in := inputs{"connection": server.connection(nil), "create": "echo 1", "update": "echo 2"}
	require.NoError(t, step.previewCreate(in))
	assert.Zero(t, server.Connections.Load())

	require.NoError(t, step.create(in, 0))
	opened := server.Connections.Load()
	require.NoError(t, step.previewUpdate(in.with(inputs{"stdin": "new"})))
	assert.Equal(t, opened, server.Connections.Load())
	assert.Equal(t, []string{"echo 1"}, server.Commands())
}

func TestAnyChangeExceptTriggersUpdatesInPlace(t *testing.T) {
	server := newServer(t).Start(t)
	server.AcceptEnv = []string{"NAME"}
	base := inputs{
		"connection": server.connection(nil), "create": "cat", "stdin": "old",
		"environment": inputs{"NAME": "old"}, "triggers": []any{"instance-1", "digest-1"},
	}
	for name, change := range map[string]inputs{
		"stdin":       {"stdin": "new"},
		"environment": {"environment": inputs{"NAME": "new"}},
		"connection":  {"connection": server.connection(inputs{"password": "added"})},
		"create":      {"create": "cat; true"},
		"update":      {"update": "true"},
		"delete":      {"delete": "true"},
		"logging":     {"logging": "none"},
	} {
		t.Run(name, func(t *testing.T) {
			step := newEngine(t, remoteCommand)
			require.NoError(t, step.create(base, 0))
			changed, replaced := step.diff(base.with(change))
			assert.True(t, changed)
			assert.False(t, replaced)
		})
	}
}

func TestNoChangeIsNoChange(t *testing.T) {
	server := newServer(t).Start(t)
	in := inputs{"connection": server.connection(nil), "create": "date", "triggers": []any{"a"}}
	step := newEngine(t, remoteCommand)
	require.NoError(t, step.create(in, 0))
	changed, _ := step.diff(in)
	assert.False(t, changed)
}

func TestAChangeOfTriggersReplaces(t *testing.T) {
	server := newServer(t).Start(t)
	in := inputs{
		"connection": server.connection(nil), "create": "true", "update": "true", "triggers": []any{"a", "b"},
	}
	for name, triggers := range map[string][]any{
		"changed": {"a", "c"}, "added": {"a", "b", "c"}, "removed": {"a"}, "moved": {"b", "a"},
	} {
		t.Run(name, func(t *testing.T) {
			step := newEngine(t, remoteCommand)
			require.NoError(t, step.create(in, 0))
			changed, replaced := step.diff(in.with(inputs{"triggers": triggers}))
			assert.True(t, changed)
			assert.True(t, replaced)
		})
	}
}

func TestUpdateRunsCreateAgainWithTheNewInputs(t *testing.T) {
	server := newServer(t).Start(t)
	in := inputs{"connection": server.connection(nil), "create": "cat", "stdin": "old"}
	step := newEngine(t, remoteCommand)
	require.NoError(t, step.create(in, 0))
	id := step.id
	require.NoError(t, step.update(in.with(inputs{"stdin": "new"})))
	assert.Equal(t, []string{"cat", "cat"}, server.Commands())
	assert.Equal(t, "new", step.output("stdout"))
	assert.Equal(t, id, step.id)
}

func TestUpdateRunsTheUpdateCommandWhereThereIsOne(t *testing.T) {
	server := newServer(t).Start(t)
	in := inputs{"connection": server.connection(nil), "create": "echo 1", "update": "echo 2", "stdin": "old"}
	step := newEngine(t, remoteCommand)
	require.NoError(t, step.create(in, 0))
	require.NoError(t, step.update(in.with(inputs{"stdin": "new"})))
	assert.Equal(t, []string{"echo 1", "echo 2"}, server.Commands())
	assert.Equal(t, "2", step.output("stdout"))
}

func TestAFailedUpdateKeepsTheOldState(t *testing.T) {
	server := newServer(t).Start(t)
	in := inputs{"connection": server.connection(nil), "create": "cat; exit ${CODE:-0}", "stdin": "old"}
	step := newEngine(t, remoteCommand)
	require.NoError(t, step.create(in, 0))
	bad := in.with(inputs{"create": "cat; exit 3"})
	require.ErrorContains(t, step.update(bad), "status 3")
	changed, _ := step.diff(bad)
	assert.True(t, changed, "the next run must try again")
}

func TestDeleteRunsTheDeleteCommand(t *testing.T) {
	server := newServer(t).Start(t)
	step := newEngine(t, remoteCommand)
	require.NoError(t, step.create(inputs{
		"connection": server.connection(nil), "create": "echo 1", "delete": "echo 2",
	}, 0))
	require.NoError(t, step.delete())
	assert.Equal(t, []string{"echo 1", "echo 2"}, server.Commands())
}

func TestWithoutADeleteCommandAVanishedHostDoesNotBlockADestroy(t *testing.T) {
	server := newServer(t).Start(t)
	step := newEngine(t, remoteCommand)
	require.NoError(t, step.create(inputs{"connection": server.connection(nil), "create": "true"}, 0))
	opened := server.Connections.Load()
	require.NoError(t, step.delete())
	assert.Equal(t, opened, server.Connections.Load())
}

func TestTheNextCommandGetsTheLastOutput(t *testing.T) {
	for name, test := range map[string]struct {
		option inputs
		want   string
	}{
		"by default":        {nil, "was one"},
		"unless turned off": {inputs{"addPreviousOutputInEnv": false}, "was nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			server := newServer(t)
			server.AcceptEnv = []string{"PULUMI_COMMAND_STDOUT"}
			server.Start(t)
			in := inputs{
				"connection": server.connection(nil), "create": "echo one",
				"update": "echo was ${PULUMI_COMMAND_STDOUT:-nothing}",
			}.with(test.option)
			step := newEngine(t, remoteCommand)
			require.NoError(t, step.create(in, 0))
			require.NoError(t, step.update(in.with(inputs{"stdin": "x"})))
			assert.Equal(t, test.want, step.output("stdout"))
		})
	}
}

func TestAServerThatRefusesTheLastOutputDoesNotStopTheCommand(t *testing.T) {
	server := newServer(t).Start(t)
	in := inputs{"connection": server.connection(nil), "create": "echo one"}
	step := newEngine(t, remoteCommand)
	require.NoError(t, step.create(in, 0))
	require.NoError(t, step.update(in.with(inputs{"stdin": "x"})))
}

func TestEnvironmentNeedsAcceptEnvOnTheServer(t *testing.T) {
	server := newServer(t)
	server.AcceptEnv = []string{"GREETING"}
	server.Start(t)
	step := newEngine(t, remoteCommand)
	in := inputs{
		"connection": server.connection(nil), "create": "echo $GREETING", "environment": inputs{"GREETING": "hello"},
	}
	require.NoError(t, step.create(in, 0))
	assert.Equal(t, "hello", step.output("stdout"))

	err := newEngine(t, remoteCommand).create(in.with(inputs{"environment": inputs{"OTHER": "a-value"}}), 0)
	require.ErrorContains(t, err, "OTHER")
	require.ErrorContains(t, err, "AcceptEnv")
	assert.NotContains(t, err.Error(), "a-value")
	assert.Len(t, server.Commands(), 1)
}

func TestAFailureQuotesTheCommandAndItsOutput(t *testing.T) {
	server := newServer(t).Start(t)
	err := newEngine(t, remoteCommand).create(inputs{
		"connection": server.connection(nil), "create": "echo looked; echo wrong >&2; exit 7",
	}, 0)
	for _, part := range []string{"status 7", "echo looked", "looked\n", "wrong\n"} {
		require.ErrorContains(t, err, part)
	}
}

func TestSecretsStayOutOfErrorsEvenIfTheCommandPrintsThem(t *testing.T) {
	server := newServer(t)
	server.AcceptEnv = []string{"TOKEN"}
	server.Start(t)
	keyFile := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(keyFile, []byte(server.Key), 0o600))
	err := newEngine(t, remoteCommand).create(inputs{
		"connection": server.connection(inputs{"password": server.Password}),
		"create": "echo begin; cat -n; echo \"$TOKEN\" | sed 's/^/: /' >&2; echo " + server.Password +
			"; sed 's/^/: /' " + keyFile + "; exit 1",
		"stdin":       "stdin-of-the-step\nwith \"two\" lines\n",
		"environment": inputs{"TOKEN": "environment\nof the \"step\""},
	}, 0)
	require.ErrorContains(t, err, "begin")
	for _, secret := range []string{
		"stdin-of-the-step", "lines", "environment", "of the", server.Password, "PRIVATE KEY",
		strings.Split(server.Key, "\n")[1],
	} {
		assert.NotContains(t, err.Error(), secret)
	}
}

func TestSecretsStayOutOfErrorsOfTheConnection(t *testing.T) {
	server := newServer(t).Start(t)
	for name, connection := range map[string]inputs{
		"a login that is refused": {"user": "stranger", "password": "wrong-password"},
		"an invalid key":          {"privateKey": "-----BEGIN NONSENSE-----\nbm9uc2Vuc2U=\n-----END NONSENSE-----\n"},
		"a needless passphrase":   {"privateKeyPassword": "a-passphrase-for-nothing"},
		"a host that is down":     {"port": float64(freePort(t))},
	} {
		t.Run(name, func(t *testing.T) {
			all := server.connection(inputs{"password": server.Password}).with(connection)
			err := newEngine(t, remoteCommand).create(inputs{
				"connection": all, "create": "true", "stdin": "stdin-of-the-step",
			}, 0)
			require.Error(t, err)
			for _, input := range []string{"password", "privateKey", "privateKeyPassword"} {
				if secret, ok := all[input].(string); ok {
					assert.NotContains(t, err.Error(), secret)
				}
			}
			assert.NotContains(t, err.Error(), "stdin-of-the-step")
			assert.NotContains(t, err.Error(), "bm9uc2Vuc2U=")
		})
	}
}

func TestAPasswordLogsIn(t *testing.T) {
	server := newServer(t).Start(t)
	connection := server.connection(inputs{"password": server.Password})
	delete(connection, "privateKey")
	require.NoError(t, newEngine(t, remoteCommand).create(inputs{"connection": connection, "create": "true"}, 0))
}

func TestAnEncryptedKeyLogsInWithItsPassword(t *testing.T) {
	server := newServer(t)
	key := newEd25519(t)
	server.Key = privateKeyPEM(t, key)
	server.Start(t)
	encrypted := encryptedKeyPEM(t, key, "open sesame")
	in := inputs{"connection": server.connection(inputs{"privateKey": encrypted}), "create": "true"}
	require.ErrorContains(t, newEngine(t, remoteCommand).create(in, 0), "passphrase protected")

	in["connection"] = server.connection(inputs{"privateKey": encrypted, "privateKeyPassword": "open sesame"})
	require.NoError(t, newEngine(t, remoteCommand).create(in, 0))
}

// ---- the host's identity -----------------------------------------------------------------------------------------------

func TestAPinnedHostKeyOfAnyTypeIsAccepted(t *testing.T) {
	server := newServer(t)
	server.HostKeys = []ssh.Signer{
		newSigner(t, newRSA(t)), newSigner(t, newECDSA(t)), newSigner(t, newEd25519(t)),
	}
	server.Start(t)
	for _, key := range server.HostKeys {
		t.Run(key.PublicKey().Type(), func(t *testing.T) {
			require.NoError(t, newEngine(t, remoteCommand).create(inputs{
				"connection": server.connection(inputs{"hostKey": authorizedKey(key)}), "create": "true",
			}, 0))
		})
	}
}

func TestAHostKeyOtherThanThePinnedOneIsRefused(t *testing.T) {
	for name, pinned := range map[string]ssh.Signer{
		"of the same type": newSigner(t, newEd25519(t)),
		"of another type":  newSigner(t, newECDSA(t)),
	} {
		t.Run(name, func(t *testing.T) {
			server := newServer(t).Start(t)
			err := newEngine(t, remoteCommand).create(inputs{
				"connection": server.connection(inputs{"hostKey": authorizedKey(pinned)}), "create": "true",
			}, 0)
			require.ErrorContains(t, err, "host key mismatch")
			require.ErrorContains(t, err, pinned.PublicKey().Type())
			assert.Empty(t, server.Commands())
		})
	}
}

func TestAnInvalidHostKeyIsNamedInTheError(t *testing.T) {
	err := newEngine(t, remoteCommand).create(inputs{
		"connection": newServer(t).Start(t).connection(inputs{"hostKey": "AAAA"}), "create": "true",
	}, 0)
	require.ErrorContains(t, err, "hostKey")
}

// ---- a bastion ---------------------------------------------------------------------------------------------------------

func TestABastionForwardsTheConnection(t *testing.T) {
	bastion, server := newServer(t).Start(t), newServer(t).Start(t)
	step := newEngine(t, remoteCommand)
	require.NoError(t, step.create(inputs{
		"create": "cat", "stdin": "through",
		"connection": server.connection(inputs{
			"hostKey": authorizedKey(server.HostKeys[0]),
			"proxy":   bastion.connection(inputs{"hostKey": authorizedKey(bastion.HostKeys[0])}),
		}),
	}, 0))
	assert.Equal(t, "through", step.output("stdout"))
	assert.EqualValues(t, 1, bastion.Forwarded.Load())
	assert.Empty(t, bastion.Commands())
}

func TestABastionWithTheWrongHostKeyIsRefused(t *testing.T) {
	bastion, server := newServer(t).Start(t), newServer(t).Start(t)
	err := newEngine(t, remoteCommand).create(inputs{
		"create": "true",
		"connection": server.connection(inputs{
			"proxy": bastion.connection(inputs{"hostKey": authorizedKey(newSigner(t, newEd25519(t)))}),
		}),
	}, 0)
	require.ErrorContains(t, err, "proxy: ")
	require.ErrorContains(t, err, "host key mismatch")
	assert.Zero(t, server.Connections.Load())
}

func TestAHostBehindABastionMayComeUpLate(t *testing.T) {
	bastion, server := newServer(t).Start(t), newServer(t)
	server.Port = freePort(t)
	later := time.AfterFunc(500*time.Millisecond, func() { server.Start(t) })
	t.Cleanup(func() { later.Stop() })
	require.NoError(t, newEngine(t, remoteCommand).create(inputs{
		"create":     "true",
		"connection": server.connection(inputs{"dialErrorLimit": -1.0, "proxy": bastion.connection(nil)}),
	}, 30))
}

func TestTheCustomTimeoutStopsACommandBehindABastionThatHasDied(t *testing.T) {
	bastion, server := newServer(t).Start(t), newServer(t).Start(t)
	relay := newRelay(t, bastion)
	go func() {
		for len(server.Commands()) == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		relay.Silence()
	}()
	start := time.Now()
	err := newEngine(t, remoteCommand).create(inputs{
		"connection": server.connection(inputs{"proxy": bastion.connection(inputs{"port": float64(relay.Port)})}),
		"create":     "exec sleep 20",
	}, 2)
	require.ErrorContains(t, err, "timed out")
	assert.Less(t, time.Since(start), 10*time.Second)
}

func TestABastionThatDiesDuringALoginCountsAsAFailedAttempt(t *testing.T) {
	bastion, server := newServer(t).Start(t), newServer(t)
	server.Port = silentPort(t)
	relay := newRelay(t, bastion)
	go func() {
		for bastion.Forwarded.Load() == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		relay.Silence()
	}()
	start := time.Now()
	err := newEngine(t, remoteCommand).create(inputs{
		"connection": server.connection(inputs{
			"perDialTimeout": 1.0, "dialErrorLimit": 1.0,
			"proxy": bastion.connection(inputs{
				"port": float64(relay.Port), "perDialTimeout": 1.0, "dialErrorLimit": 1.0,
			}),
		}),
		"create": "true",
	}, 0)
	require.ErrorContains(t, err, "proxy: ")
	assert.Less(t, time.Since(start), 10*time.Second)
}

// ---- retries and timeouts ----------------------------------------------------------------------------------------------

func TestAHostMayComeUpLate(t *testing.T) {
	server := newServer(t)
	server.Port = freePort(t)
	later := time.AfterFunc(500*time.Millisecond, func() { server.Start(t) })
	t.Cleanup(func() { later.Stop() })
	require.NoError(t, newEngine(t, remoteCommand).create(inputs{
		"connection": server.connection(inputs{"dialErrorLimit": -1.0}), "create": "true",
	}, 30))
}

func TestARefusedLoginIsRetriedUpToTheLimit(t *testing.T) {
	server := newServer(t).Start(t)
	err := newEngine(t, remoteCommand).create(inputs{
		"connection": server.connection(inputs{
			"privateKey": privateKeyPEM(t, newEd25519(t)), "dialErrorLimit": 2.0,
		}),
		"create": "true",
	}, 0)
	require.ErrorContains(t, err, "after 3 failed attempts")
	require.ErrorContains(t, err, "unable to authenticate")
	require.ErrorContains(t, err, "as debian")
	assert.EqualValues(t, 3, server.Connections.Load())
}

func TestWithoutALimitTheCustomTimeoutEndsTheAttempts(t *testing.T) {
	server := newServer(t)
	server.Port = freePort(t)
	start := time.Now()
	err := newEngine(t, remoteCommand).create(inputs{
		"connection": server.connection(inputs{"dialErrorLimit": -1.0}), "create": "true",
	}, 2)
	require.ErrorContains(t, err, "timed out")
	require.ErrorContains(t, err, "connection refused", "the last attempt's reason")
	assert.InDelta(t, 4, time.Since(start).Seconds(), 2.5)
}

func TestASilentHostCountsAsAFailedAttempt(t *testing.T) {
	server := newServer(t)
	server.Port = silentPort(t)
	start := time.Now()
	err := newEngine(t, remoteCommand).create(inputs{
		"connection": server.connection(inputs{"perDialTimeout": 1.0}), "create": "true",
	}, 0)
	require.ErrorContains(t, err, "perDialTimeout")
	assert.InDelta(t, 3, time.Since(start).Seconds(), 2.5)
}

func TestTheCustomTimeoutStopsARunningCommand(t *testing.T) {
	server := newServer(t).Start(t)
	start := time.Now()
	err := newEngine(t, remoteCommand).create(inputs{
		"connection": server.connection(nil), "create": "echo started; exec sleep 20",
	}, 1)
	require.ErrorContains(t, err, "timed out")
	require.ErrorContains(t, err, "started")
	assert.Less(t, time.Since(start), 10*time.Second)
}

func TestCancelStopsTheAttempts(t *testing.T) {
	server := newServer(t)
	server.Port = freePort(t)
	step := newEngine(t, remoteCommand)
	later := time.AfterFunc(500*time.Millisecond, func() { _ = step.server.Cancel() })
	defer later.Stop()
	err := step.create(inputs{"connection": server.connection(inputs{"dialErrorLimit": -1.0}), "create": "true"}, 30)
	require.ErrorContains(t, err, "cancelled")
}
