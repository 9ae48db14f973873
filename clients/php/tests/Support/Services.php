<?php

declare(strict_types=1);

namespace Plugsocket\Tests\Support;

/** A Redis of its own on a Unix socket, servers and workers with the chat plugin; in a folder that goes with it. */
final class Services
{
    public readonly string $folder;
    public readonly string $socket;
    public readonly Process $redisServer;
    /** @var list<Process> */
    private array $processes = [];
    /** @var list<string> Addresses for clients. */
    public array $urls = [];
    /** @var list<string> Addresses of the HTTP API. */
    public array $apis = [];
    private static ?self $shared = null;

    /** @param string $plugin The one that is handler and has the actions: `chat` or `channels`. */
    public function __construct(private readonly string $plugin = 'chat')
    {
        $this->folder = sys_get_temp_dir() . '/plugsocket-php-' . bin2hex(random_bytes(6));
        mkdir($this->folder, 0700);
        foreach (['plugins', 'var'] as $name) {
            mkdir("{$this->folder}/$name", 0755);
            chmod("{$this->folder}/$name", 0755);
        }
        $this->socket = "{$this->folder}/redis.sock";
        $command = ['redis-server', '--port', '0', '--save', '', '--dir', $this->folder, '--unixsocket', $this->socket];
        $this->redisServer = new Process($command, "{$this->folder}/redis.log");
        $this->redisServer->wait('/Ready to accept connections|ready to accept connections at/i');
        $library = self::built('TEST_' . strtoupper($plugin) . '_PLUGIN');
        copy($library, "{$this->folder}/plugins/" . basename($library));
        register_shutdown_function($this->remove(...));
    }

    /** Two servers and a worker of the app `plugsocket`, the same for all tests that don't change them. */
    public static function shared(): self
    {
        if (self::$shared === null) {
            self::$shared = new self();
            self::$shared->server();
            self::$shared->server();
            self::$shared->worker();
        }

        return self::$shared;
    }

    /** @param array<string, string|list<string>> $settings By their keys. */
    public function server(array $settings = []): Process
    {
        $config = $this->config($settings);
        $server = new Process([self::built('TEST_SERVER'), '--config', $config], "$config.log");
        $this->processes[] = $server;
        $this->urls[] = $server->wait('~listening on (ws://\S+)~');
        $this->apis[] = rtrim($server->wait('~ops on (http://\S+)~'), '/');

        return $server;
    }

    /** @param array<string, string|list<string>> $settings By their keys. */
    public function worker(array $settings = []): Process
    {
        $config = $this->config($settings);
        $worker = new Process([self::built('TEST_WORKER'), '--config', $config], "$config.log");
        $this->processes[] = $worker;
        $worker->wait('/(worker ready)/');

        return $worker;
    }

    public function redis(): \Redis
    {
        $redis = new \Redis();
        $redis->connect($this->socket);

        return $redis;
    }

    public function predis(string $prefix = ''): \Predis\Client
    {
        return new \Predis\Client(['scheme' => 'unix', 'path' => $this->socket], ['prefix' => $prefix]);
    }

    public function end(): void
    {
        foreach (array_reverse($this->processes) as $process) {
            $process->end();
        }
        $this->redisServer->end();
    }

    /** @param array<string, string|list<string>> $settings */
    private function config(array $settings): string
    {
        $all = $settings + [
            'queue' => "unix://{$this->socket}", 'plugins_dir' => 'plugins', 'state_dir' => 'var', 'server.handler' => $this->plugin,
            'server.listen' => '127.0.0.1:0', 'ops.listen' => '127.0.0.1:0', 'ops.worker_listen' => '127.0.0.1:0',
        ];
        foreach ($this->plugin === 'chat' ? ['join', 'echo'] : ['subscribe', 'unsubscribe'] as $action) {
            $all["actions.$action"] = $this->plugin;
        }
        $path = "{$this->folder}/" . count($this->processes) . '.toml';
        // Texts and lists of texts are the same in TOML as in JSON.
        $lines = array_map(static fn (string $key) => "$key = " . json_encode($all[$key], JSON_THROW_ON_ERROR | JSON_UNESCAPED_SLASHES), array_keys($all));
        file_put_contents($path, implode("\n", $lines) . "\n");

        return $path;
    }

    private function remove(): void
    {
        $this->end();
        foreach (new \RecursiveIteratorIterator(
            new \RecursiveDirectoryIterator($this->folder, \FilesystemIterator::SKIP_DOTS),
            \RecursiveIteratorIterator::CHILD_FIRST,
        ) as $entry) {
            $entry->isDir() ? rmdir($entry->getPathname()) : unlink($entry->getPathname());
        }
        rmdir($this->folder);
    }

    private static function built(string $variable): string
    {
        $path = getenv($variable);
        if (! is_string($path) || ! is_file($path)) {
            throw new \RuntimeException("$variable must be the path of what was built: run these tests by clients/php/test");
        }

        return $path;
    }
}
