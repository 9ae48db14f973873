<?php

/** Loads this package and what its tests need: from vendor/ after `composer install`, else Debian's packages. */

declare(strict_types=1);

$vendor = __DIR__ . '/../vendor/autoload.php';
if (is_file($vendor)) {
    require $vendor;

    return;
}

spl_autoload_register(static function (string $class): void {
    foreach (['Plugsocket\\Tests\\' => __DIR__ . '/', 'Plugsocket\\' => __DIR__ . '/../src/'] as $prefix => $folder) {
        if (str_starts_with($class, $prefix)) {
            $file = $folder . str_replace('\\', '/', substr($class, strlen($prefix))) . '.php';
            if (is_file($file)) {
                require $file;
            }

            return;
        }
    }
});
// Their code is older than this PHP: what it does in a way that is deprecated is not ours to mend.
$level = error_reporting(E_ALL & ~E_DEPRECATED & ~E_USER_DEPRECATED);
require 'Predis/autoload.php';
require 'Illuminate/autoload.php';
require_once 'Illuminate/Foundation/helpers.php';
require_once 'Illuminate/Support/helpers.php';
require_once 'Illuminate/Collections/helpers.php';
error_reporting($level);
require __DIR__ . '/../src/helpers.php';
