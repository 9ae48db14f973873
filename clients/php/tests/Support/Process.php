<?php

declare(strict_types=1);

namespace Plugsocket\Tests\Support;

/** A process whose output goes to a file; it ends with the test run at the latest. */
final class Process
{
    private const PATIENCE = 30.0;
    private const POLL_MICROSECONDS = 5_000;

    /** @var list<self> */
    private static array $running = [];

    /** @var resource */
    private mixed $process;

    /** @param list<string> $command */
    public function __construct(array $command, private readonly string $log)
    {
        // Overrides of the person who runs the tests are not part of them.
        $environment = array_filter(getenv(), static fn (string $name) => ! str_starts_with($name, 'PLUGSOCKET_'), ARRAY_FILTER_USE_KEY);
        $output = ['file', $log, 'a'];
        $pipes = [];
        $process = proc_open($command, [['file', '/dev/null', 'r'], $output, $output], $pipes, null, $environment);
        if ($process === false) {
            throw new \RuntimeException("can't start {$command[0]}");
        }
        $this->process = $process;
        if (self::$running === []) {
            register_shutdown_function(self::endAll(...));
        }
        self::$running[] = $this;
    }

    /** The first group of a pattern in the output, once it is there. */
    public function wait(string $pattern): string
    {
        $end = microtime(true) + self::PATIENCE;
        while (preg_match($pattern, $this->output(), $found) !== 1) {
            if (! proc_get_status($this->process)['running'] || microtime(true) > $end) {
                throw new \RuntimeException("no $pattern in the output:\n" . $this->output());
            }
            usleep(self::POLL_MICROSECONDS);
        }

        return $found[1] ?? '';
    }

    public function output(): string
    {
        return (string) file_get_contents($this->log);
    }

    public function id(): int
    {
        return proc_get_status($this->process)['pid'];
    }

    public function end(): void
    {
        if (! is_resource($this->process)) {
            return;
        }
        proc_terminate($this->process);
        $end = microtime(true) + self::PATIENCE;
        while (proc_get_status($this->process)['running']) {
            if (microtime(true) > $end) {
                proc_terminate($this->process, SIGKILL);
            }
            usleep(self::POLL_MICROSECONDS);
        }
        proc_close($this->process);
    }

    public static function endAll(): void
    {
        foreach (array_reverse(self::$running) as $process) {
            $process->end();
        }
        self::$running = [];
    }
}
