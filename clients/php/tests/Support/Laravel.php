<?php

declare(strict_types=1);

namespace Plugsocket\Tests\Support;

use Illuminate\Auth\GenericUser;
use Illuminate\Foundation\Application;
use Illuminate\Foundation\Bootstrap;
use Illuminate\Http\Request;
use Illuminate\Support\Facades\Auth;
use Illuminate\Support\Facades\Facade;
use Symfony\Component\HttpFoundation\Response;

/** A Laravel application in a folder of its own: this package is found as composer's are, and requests go through its HTTP kernel. */
final class Laravel
{
    public readonly Application $app;
    private readonly string $folder;

    /** @param array<string, array<string, mixed>> $config Files of config/ that differ, by name. */
    public function __construct(array $config = [])
    {
        $this->folder = sys_get_temp_dir() . '/plugsocket-laravel-' . bin2hex(random_bytes(6));
        foreach (['', '/config', '/bootstrap', '/bootstrap/cache', '/vendor', '/vendor/composer', '/storage'] as $name) {
            mkdir($this->folder . $name, 0700);
        }
        $package = json_decode((string) file_get_contents(dirname(__DIR__, 2) . '/composer.json'), true, 512, JSON_THROW_ON_ERROR);
        file_put_contents("{$this->folder}/vendor/composer/installed.json", json_encode(['packages' => [$package]]));
        foreach (array_replace(self::config(), $config) as $name => $values) {
            file_put_contents("{$this->folder}/config/$name.php", '<?php return ' . var_export($values, true) . ';');
        }
        $this->app = new Application($this->folder);
        $this->app->singleton(\Illuminate\Contracts\Http\Kernel::class, \Illuminate\Foundation\Http\Kernel::class);
        $this->app->singleton(\Illuminate\Contracts\Console\Kernel::class, \Illuminate\Foundation\Console\Kernel::class);
        $this->app->singleton(\Illuminate\Contracts\Debug\ExceptionHandler::class, \Illuminate\Foundation\Exceptions\Handler::class);
        // All but HandleExceptions, which would take errors from PHPUnit.
        $this->app->bootstrapWith([
            Bootstrap\LoadConfiguration::class, Bootstrap\RegisterFacades::class, Bootstrap\RegisterProviders::class, Bootstrap\BootProviders::class,
        ]);
        foreach (['user' => 'X-User', 'admin' => 'X-Admin'] as $driver => $header) {
            Auth::viaRequest($driver, static fn (Request $request) => $request->header($header) === null
                ? null
                : new GenericUser(['id' => (int) $request->header($header), 'name' => 'Zoë']));
        }
    }

    /**
     * @param array<string, mixed> $data
     * @param array<string, string> $headers
     */
    public function post(string $path, array $data, array $headers = []): Response
    {
        $request = Request::create($path, 'POST', $data, [], [], ['HTTP_ACCEPT' => 'application/json']);
        $request->headers->add($headers);

        return $this->app->make(\Illuminate\Contracts\Http\Kernel::class)->handle($request);
    }

    public function path(string $name): string
    {
        return "{$this->folder}/$name";
    }

    public function end(): void
    {
        $this->app->flush();
        Facade::clearResolvedInstances();
        Application::setInstance(null);
        foreach (new \RecursiveIteratorIterator(
            new \RecursiveDirectoryIterator($this->folder, \FilesystemIterator::SKIP_DOTS),
            \RecursiveIteratorIterator::CHILD_FIRST,
        ) as $entry) {
            $entry->isDir() ? rmdir($entry->getPathname()) : unlink($entry->getPathname());
        }
        rmdir($this->folder);
    }

    /** @return array<string, array<string, mixed>> */
    private static function config(): array
    {
        $guard = static fn (string $driver) => ['driver' => $driver];

        return [
            'app' => [
                'env' => 'testing',
                'debug' => false,
                'key' => str_repeat('k', 32),
                'cipher' => 'AES-256-CBC',
                'providers' => [
                    \Illuminate\Auth\AuthServiceProvider::class, \Illuminate\Broadcasting\BroadcastServiceProvider::class,
                    \Illuminate\Bus\BusServiceProvider::class, \Illuminate\Cache\CacheServiceProvider::class,
                    \Illuminate\Filesystem\FilesystemServiceProvider::class, \Illuminate\Queue\QueueServiceProvider::class,
                    \Illuminate\Redis\RedisServiceProvider::class, \Illuminate\Translation\TranslationServiceProvider::class,
                    \Illuminate\View\ViewServiceProvider::class,
                ],
            ],
            'auth' => ['defaults' => ['guard' => 'web'], 'guards' => ['web' => $guard('user'), 'admin' => $guard('admin')]],
            'broadcasting' => ['default' => 'plugsocket', 'connections' => ['plugsocket' => ['driver' => 'plugsocket']]],
            'cache' => ['default' => 'array', 'stores' => ['array' => ['driver' => 'array']]],
            'queue' => ['default' => 'sync', 'connections' => ['sync' => ['driver' => 'sync']]],
            'view' => ['paths' => [], 'compiled' => sys_get_temp_dir()],
            'logging' => ['default' => 'null', 'channels' => ['null' => ['driver' => 'monolog', 'handler' => \Monolog\Handler\NullHandler::class]]],
        ];
    }
}
